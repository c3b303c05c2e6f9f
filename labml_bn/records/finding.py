"""Finding several runs, and writing about them.

They are found by their names, by that of their sweep, by a pattern (`query.py`), or as the N newest.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from labml_bn.cli.errors import UsageError, UserError, os_errors_as
from labml_bn.records import notes
from labml_bn.records.folder import LATEST, find_run, list_runs, list_sweeps
from labml_bn.records.record import Record, read_runs
from labml_bn.records.table import load_runs
from labml_bn.settings import KEYS


def find_runs(names: Sequence[str], logs: Path) -> list[Path]:
    """The folders of the runs that `names` mean, without duplicates.

    A name is one that `find_run` takes; that of a sweep, which means all its runs; a pattern such as `norm=none` or
    `"norm=none and lr<0.01"`, which means all that it chooses; or `latest:N`, which means the N newest. The newest is
    the last of them, but a sweep's runs are in the order of their settings.

    Raises UserError as `find_run` does and for a pattern that chooses no run, UsageError for a malformed one, and for
    an N that is not a number from 1 on.
    """
    found: dict[Path, Path] = {}
    for name in names:
        for run in _find(name, logs):
            found.setdefault(run.resolve(), run)
    return list(found.values())


def write_notes(changes: Iterable[tuple[str, str, str]], logs: Path) -> list[Path]:
    """Change what the user has written about runs: each time an entry, the runs as for `find_runs`, and a text.

    The entries are `name` and `note`, which the text replaces, `tag`, which adds it as a tag, and `untag`, which
    removes it. Returns the folders of the runs. Nothing is written if one of the changes is wrong. Raises UserError if
    it is, or if a run's folder cannot be written to.
    """
    entries: dict[Path, tuple[Path, dict[str, Any]]] = {}
    for what, name, text in changes:
        for run in find_runs([name], logs):
            _, own = entries.setdefault(run.resolve(), (run, {}))
            own |= notes.changed(notes.read(run) | own, what, text)
    for run, own in entries.values():
        with os_errors_as(f"cannot write {run / notes.FILE}"):
            notes.write(run, own)
    return [run for run, _ in entries.values()]


def _find(name: str, logs: Path) -> list[Path]:
    several = LATEST.fullmatch(name)
    if several:
        if not re.fullmatch("0*[1-9][0-9]{0,8}", several[1]):
            raise UsageError(f"{name}: write latest:N for the N newest runs, N at least 1")
        return list_runs(logs)[: int(several[1])][::-1] or [find_run("latest", logs)]
    try:
        return [find_run(name, logs)]
    except UsageError:  # it means several
        sweep = list_sweeps(logs).get(name)
        return _by_settings(sweep) if sweep else _chosen(name, logs)


def _by_settings(runs: Iterable[Path]) -> list[Path]:
    """The runs of a sweep in the order of their settings: several are trained at a time, so that of their start varies.

    Numbers are sorted by size, and words as `train --list` shows them: `batch_norm`, `torch`, `none`.
    """

    def place(run: Record) -> list[Any]:
        return [_place(key, run.settings[key]) for key in KEYS]

    return [run.folder for run in sorted(read_runs(runs), key=place)]


def _place(key: str, value: Any) -> Any:
    options = KEYS[key].takes
    return options.index(value) if isinstance(options, Sequence) else value


def _chosen(pattern: str, logs: Path) -> list[Path]:
    runs = [run.folder for run in load_runs(logs).where(pattern)]
    if not runs:
        raise UserError(f"no run in {logs} matches {pattern}")
    return runs[::-1]
