"""What is left to do for a sweep: its runs by their settings, compared with the runs in the logs.

What has been done is known from the runs' folders alone: which of them are part of the sweep, their settings and how
they ended. So it does not matter which process, or which machine, has trained them.
"""

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labml_bn.cli.errors import UsageError
from labml_bn.cli.output import report
from labml_bn.records.folder import list_checkpoints
from labml_bn.records.record import COMPLETED, DIVERGED, RUNNING, Record, read_runs
from labml_bn.settings import CHANGEABLE, PATHS, as_typed, complete, short, training_images
from labml_bn.trained.data import find_data
from labml_bn.training.sweeps import definition
from labml_bn.training.sweeps.definition import Definition

#: What is left to do for a run that is neither complete nor diverged nor running.
RESUME, START = "resume", "start"

#: Seconds in which the runs of a sweep whose process was killed have ended.
PATIENCE = 10.0

#: Keys that can change when a run is resumed. Runs that differ in them alone are the same, unless they vary.
IGNORED = frozenset({*CHANGEABLE, *PATHS})


@dataclass(frozen=True)
class Part:
    """A run of a sweep: its settings, what distinguishes it from the others, its folder if it has one, its status.

    The status is COMPLETED, DIVERGED, RUNNING, RESUME or START.
    """

    settings: dict[str, Any]
    label: str
    status: str
    folder: Path | None = None

    @property
    def images(self) -> int:
        """The training images in all its epochs."""
        values = complete(self.settings)
        return int(values["epochs"]) * training_images(values["train_samples"], values["held_out"])


def planned(logs: Path, sweep: Definition, *, is_new: bool) -> list[Part]:
    """The runs of a sweep, with what has been done. It is waited for those whose sweep was killed a moment ago.

    If the name also has runs with other settings, a line on standard error says so. For a new sweep, UsageError is
    raised.
    """
    grid, end = sweep.grid, time.monotonic() + PATIENCE
    while True:
        found = by_identity(logs, sweep.name, grid.swept)
        parts, others = [], sum(map(len, found.values()))
        for settings in grid.combinations():
            records = trained(settings, found, grid.swept)
            parts.append(part_of(settings, grid.label(settings), records))
            others -= len(records)
        if others and is_new:
            raise UsageError(f"the sweep {sweep.name} has runs with other settings: choose another name (--sweep NAME)")
        if all(part.status != RUNNING for part in parts) or time.monotonic() > end:
            if others:
                runs = "1 run" if others == 1 else f"{others} runs"
                report(f"warning: the sweep {sweep.name} also has {runs} with other settings, ignored here")
            return parts
        time.sleep(0.2)


def known(logs: Path, name: str, given: Mapping[str, Any]) -> list[Part]:
    """The runs that there are of a sweep without a definition, with the settings `given` for those to train."""
    records = read_runs(definition.runs_of(logs, name))
    report(
        f"warning: {definition.path(logs, name)} is missing, so only the {len(records)} runs in {logs} are known "
        f"(for the others, write the settings of the sweep again, and --sweep {name})"
    )
    varying = [key for key in complete({}) if len({repr(record.settings[key]) for record in records}) > 1]
    parts = []
    for same in by_identity(logs, name, IGNORED).values():
        newest = same[-1]
        settings = {key: value for key, value in newest.settings.items() if key not in PATHS} | dict(given)
        label = " ".join(f"{short(key)}={as_typed(settings[key])}" for key in varying if key not in PATHS) or name
        part = part_of(settings, label, same)
        if part.status in {START, RESUME} and "data_path" not in given:  # someone else may have made the run
            part.settings["data_path"] = find_data(newest.folder, newest.settings)
        parts.append(part)
    return parts


def identity(settings: Mapping[str, Any], swept: Iterable[str]) -> str:
    """What two runs have in common if they are the same: every setting but those that are ignored, if not swept."""
    ignored = IGNORED - set(swept) | set(PATHS)
    return json.dumps([value for key, value in complete(settings).items() if key not in ignored])


def by_identity(logs: Path, name: str, swept: Iterable[str]) -> dict[str, list[Record]]:
    """The runs of a sweep, the oldest first, by their settings."""
    found: dict[str, list[Record]] = {}
    for record in read_runs(definition.runs_of(logs, name)):
        found.setdefault(identity(record.settings, swept), []).append(record)
    return found


def trained(settings: Mapping[str, Any], found: Mapping[str, list[Record]], swept: Collection[str]) -> list[Record]:
    """Those of the runs `found` (see `by_identity`) that have these settings, for at least as many epochs."""
    epochs = complete(settings)["epochs"]
    same = found.get(identity(settings, swept), [])
    return [record for record in same if record.settings["epochs"] >= epochs]


def is_same(settings: Mapping[str, Any], other: Mapping[str, Any], swept: Collection[str]) -> bool:
    """Whether two settings are those of the same run of a sweep, for the same number of epochs."""
    return identity(settings, {*swept, "epochs"}) == identity(other, {*swept, "epochs"})


def part_of(settings: dict[str, Any], label: str, records: Sequence[Record]) -> Part:
    """A run of a sweep, from the runs that have its settings. One that is resumed keeps its number of epochs."""
    for status in (COMPLETED, RUNNING, DIVERGED):
        for record in records:
            if record.status == status:
                return Part(settings, label, status, record.folder)
    for record in reversed(records):
        if list_checkpoints(record.folder):
            return Part({**settings, "epochs": record.settings["epochs"]}, label, RESUME, record.folder)
    return Part(settings, label, START, records[-1].folder if records else None)
