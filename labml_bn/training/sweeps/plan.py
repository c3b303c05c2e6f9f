"""What is left to do for a sweep: its runs by their settings, compared with the runs in the logs.

What has been done is known from the runs' folders alone: which of them are part of the sweep, their settings and how
they ended. So it does not matter which process, or which machine, has trained them.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labml_bn.cli.errors import UsageError
from labml_bn.cli.output import report
from labml_bn.records.folder import list_checkpoints
from labml_bn.records.record import COMPLETED, DIVERGED, RUNNING, Record, read_runs
from labml_bn.settings import PATHS, WITHOUT_EFFECT, as_typed, complete, short, training_images
from labml_bn.training.sweeps import definition
from labml_bn.training.sweeps.definition import Definition

#: What is left to do for a run that is neither complete nor diverged nor running.
RESUME, START = "resume", "start"

#: Seconds in which the runs of a sweep whose process was killed have ended.
PATIENCE = 10.0

#: Keys that do not change what a run computes. Runs that differ in them alone are the same, unless they vary.
IGNORED = WITHOUT_EFFECT | {"device.cuda_device"}


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


def planned(logs: Path, sweep: Definition) -> list[Part]:
    """The runs of a sweep, with what has been done. It is waited for those whose sweep was killed a moment ago.

    Raises UsageError if the sweep has runs with other settings.
    """
    grid, end = sweep.grid, time.monotonic() + PATIENCE
    keyed = [(identity(settings, grid.swept), settings) for settings in grid.combinations()]
    while True:
        found = by_identity(logs, sweep.name, grid.swept)
        if not found.keys() <= {key for key, _ in keyed}:
            raise UsageError(f"the sweep {sweep.name} has runs with other settings: choose another name (--sweep NAME)")
        parts = [part_of(settings, grid.label(settings), found.get(key, [])) for key, settings in keyed]
        if all(part.status != RUNNING for part in parts) or time.monotonic() > end:
            return parts
        time.sleep(0.2)


def known(logs: Path, name: str, given: Mapping[str, Any]) -> list[Part]:
    """The runs that there are of a sweep without a definition, with the settings `given` for those to train."""
    records = read_runs(definition.runs_of(logs, name))
    report(f"warning: {definition.path(logs, name)} is missing, so only the {len(records)} runs in {logs} are known")
    varying = [key for key in complete({}) if len({repr(record.settings[key]) for record in records}) > 1]
    parts = []
    for same in by_identity(logs, name, IGNORED).values():
        settings = same[-1].settings
        label = " ".join(f"{short(key)}={as_typed(settings[key])}" for key in varying if key not in PATHS) or name
        parts.append(part_of({**settings, **given}, label, same))
    return parts


def identity(settings: Mapping[str, Any], swept: Iterable[str]) -> str:
    """What two runs have in common if they are the same: every setting but those without an effect, if not swept."""
    ignored = IGNORED - set(swept) | set(PATHS)
    return json.dumps([value for key, value in complete(settings).items() if key not in ignored])


def by_identity(logs: Path, name: str, swept: Iterable[str]) -> dict[str, list[Record]]:
    """The runs of a sweep, the oldest first, by their settings."""
    found: dict[str, list[Record]] = {}
    for record in read_runs(definition.runs_of(logs, name)):
        found.setdefault(identity(record.settings, swept), []).append(record)
    return found


def part_of(settings: dict[str, Any], label: str, records: Sequence[Record]) -> Part:
    """A run of a sweep, from the runs that have its settings."""
    for status in (COMPLETED, RUNNING, DIVERGED):
        for record in records:
            if record.status == status:
                return Part(settings, label, status, record.folder)
    for record in reversed(records):
        if list_checkpoints(record.folder):
            return Part(settings, label, RESUME, record.folder)
    return Part(settings, label, START, records[-1].folder if records else None)
