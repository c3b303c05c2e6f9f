"""What a sweep is: its name, its settings, and the notes of its runs, in a small file in the logs; and its lock."""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from labml_bn.cli.errors import UsageError, UserError, os_errors_as
from labml_bn.cli.files import relative_path, replacing, resolve_folder
from labml_bn.cli.received import LIMIT, read_json
from labml_bn.records import notes
from labml_bn.records.folder import is_sweep_name, list_sweeps
from labml_bn.settings import PATHS, Grid, complete, default, grid_of

#: The subfolder of the logs with the definitions.
FOLDER = "sweeps"


@dataclass(frozen=True)
class Definition:
    """A sweep: its name, its runs, and the first notes of each (`records/notes.py`).

    `data` is the folder of the data sets, relative to that of the definitions.
    """

    name: str
    grid: Grid
    written: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None

    def has_the_settings_of(self, grid: Grid) -> bool:
        """Whether a grid has the same runs, wherever they are stored."""
        ours, theirs = (complete(_without_paths(of.settings)) for of in (self.grid, grid))
        return ours == theirs and self.grid.swept == grid.swept


def path(logs: Path, name: str) -> Path:
    """The file of a sweep's definition."""
    return logs / FOLDER / f"{name}.json"


def read(logs: Path, name: str) -> Definition | None:
    """The definition of a sweep, which someone else may have made; None if there is none. Raises UserError."""
    file = path(logs, name)
    if not file.exists():
        return None
    content = read_json(file)
    settings, swept, written = (content.get(entry) for entry in ("settings", "sweep", "notes"))
    if not (isinstance(settings, dict) and isinstance(swept, dict) and swept and isinstance(written, dict)):
        raise UserError(f"{file} is damaged: it has no settings of a sweep")
    try:
        grid = grid_of(_without_paths(settings), swept)
    except UsageError as error:
        raise UserError(f"{file}: {error}") from error
    data = content.get("data")
    valid = {entry: value for entry, value in written.items() if notes.is_valid(entry, value)}
    return Definition(name, grid, valid, data if isinstance(data, str) and "\0" not in data else None)


def write(logs: Path, definition: Definition) -> None:
    """Save a sweep's definition. Raises UserError if it cannot be written."""
    file = path(logs, definition.name)
    grid = definition.grid
    data = resolve_folder(grid.settings.get("data_path", default("data_path")), follow_links=False)
    content = {
        "settings": _without_paths(grid.settings),
        "sweep": grid.swept,
        "notes": dict(definition.written),
        "data": relative_path(data, file.parent),
    }
    text = json.dumps(content, ensure_ascii=False) + "\n"
    if len(text.encode()) > LIMIT:
        raise UsageError(f"the settings of the sweep have more than {LIMIT >> 20} MiB: make several sweeps of it")
    with os_errors_as(f"cannot write the sweep to {file}"), replacing(file) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def held(logs: Path, name: str) -> Iterator[None]:
    """Hold a sweep's lock, as one process does while it trains its runs.

    Raises UserError if another process holds it, or if the logs cannot be written.
    """
    folder = logs / FOLDER
    with contextlib.ExitStack() as stack:
        with os_errors_as(f"cannot write the sweep to {folder}"):
            if folder.is_symlink():  # in logs that someone else has made, it could lead anywhere
                raise UserError(f"{folder} is a symbolic link, in which no sweep is saved: choose another logs_path")
            folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(FileLock(folder / f".{name}.lock", timeout=1))
            except Timeout as error:
                raise UserError(
                    f"the sweep {name} is in use by another process: wait for its end, or name another (--sweep NAME)"
                ) from error
        yield


def runs_of(logs: Path, name: str) -> list[Path]:
    """The folders of a sweep's runs, the oldest first."""
    return list_sweeps(logs).get(name, [])


def exists(logs: Path, name: str) -> bool:
    """Whether there is a sweep of this name: its definition, or runs of it."""
    return is_sweep_name(name) and (path(logs, name).exists() or bool(runs_of(logs, name)))


def free_name(logs: Path, wanted: str) -> str:
    """A name for a new sweep: the one that is wanted, or with a number behind it."""
    taken = list_sweeps(logs)
    wanted = wanted if is_sweep_name(f"{wanted}-99999") else "sweep"
    names = itertools.chain([wanted], (f"{wanted}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken and not os.path.lexists(path(logs, name)))


def _without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in PATHS}
