"""A run as its folder records it: its settings, its status, its metrics. Damaged files are read as far as possible.

The log of a run that is running or was killed may end in half a line, which is ignored. A run that someone else has
made can contain anything: what exceeds a limit is not read (`cli/received.py`).
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labml_bn.cli.errors import UsageError
from labml_bn.cli.output import report
from labml_bn.cli.received import UnreadableError, open_to_read, parse_json, read_yaml
from labml_bn.cli.text import printable
from labml_bn.records import notes
from labml_bn.records.folder import CONFIGS, ENDS, INFO, LOG, is_running, start_time, sweep_of
from labml_bn.settings import complete, from_labml, name_of

#: The status of a run. The first four are recorded when it ends; without such a record, it is running or was killed.
COMPLETED, INTERRUPTED, DIVERGED, CRASHED = "completed", "interrupted", "diverged", "crashed"
RUNNING, KILLED = "running", "killed"

#: The percentiles over channels by which a layer's statistics are drawn, as in the paper's Figure 1.
PERCENTILES = (15, 50, 85)

#: The largest log that is read, in bytes: that of 4,000 epochs with the default settings, 1,000 with distributions.
LOG_LIMIT = 1 << 30

#: The longest line of it, the metrics between two validations. With the default settings it has 25,000 bytes,
#: with distributions 100,000.
LINE_LIMIT = 1 << 22

#: The largest step that a metric can have, in training images: 16 million epochs.
MOST_STEPS = 10**12

#: No time is as late: the year 9990.
_LATEST = 2.53e11

#: So many metrics of a run are read, and so many numbers: those of 2,600 epochs with the default settings,
#: 700 with distributions.
MOST_METRICS = 1000
MOST_NUMBERS = 1 << 25


@dataclass(frozen=True)
class Series:
    """A metric: its values [n, channels] in float64 at `steps` [n], the number of training images seen."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def percentiles(self) -> NDArray[np.float64]:
        """The `PERCENTILES` over channels at each step, [3, n]."""
        with np.errstate(invalid="ignore"):  # between infinite values, in a run that diverged
            found: NDArray[np.float64] = np.percentile(self.values, PERCENTILES, axis=1)
        return found


@dataclass(frozen=True)
class Record:
    """A run as its folder records it.

    `started` and `ended` are seconds since 1970; for a run that is running or was killed, `ended` is the time of its
    last metrics. `elapsed` are the seconds of training until then, without pauses. `settings` has every key. `info` and
    `configs` are labml's `run.yaml` and `configs.yaml`. `notes` is what the user has written (`notes.py`).
    """

    folder: Path
    info: dict[str, Any]
    configs: dict[str, Any]
    settings: dict[str, Any]
    started: float
    ended: float
    elapsed: float
    status: str
    notes: dict[str, Any]

    @property
    def sweep(self) -> str | None:
        """The name of the sweep that the run is part of, if any."""
        return sweep_of(self.info)

    @property
    def tags(self) -> list[str]:
        """The tags that the user has given the run, each once; what cannot be a tag is left out."""
        return list(dict.fromkeys(filter(notes.is_tag, self.notes.get("tags", []))))[: notes.MOST_TAGS]

    @property
    def uuid(self) -> str:
        """The name of the run's folder, even if that is a symbolic link."""
        return printable(Path(os.path.normpath(self.folder.absolute())).name)

    @property
    def name(self) -> str:
        """The name that the user has given the run, or the normalization and the settings that are not defaults."""
        return self.given_name or name_of(self.settings)

    @property
    def given_name(self) -> str:
        """The name that the user has given the run; empty if there is none."""
        return printable(self.notes.get("name", "")[: notes.LONGEST_NAME])

    def metrics(self, *names: str) -> dict[str, Series]:
        """The run's metrics, or only those with these names, each sorted by step."""
        parts: dict[str, list[Series]] = {}
        left = MOST_NUMBERS
        wanted = [f'"{name}"'.encode() for name in names]
        for line in _lines(self.folder / LOG):
            if names and not any(name in line for name in wanted):
                continue  # parsing a long line takes long
            track = _entry(line).get("track")
            for name, points in track.items() if isinstance(track, dict) else ():
                is_wanted = name in names if names else name in parts or (len(parts) < MOST_METRICS and _is_name(name))
                if is_wanted and isinstance(points, list):
                    series_of_line = _series(points)
                    left -= series_of_line.values.size
                    if left >= 0:
                        parts.setdefault(name, []).append(series_of_line)
        series = {name: _joined(of_name) for name, of_name in parts.items()}
        return {name: of_name for name, of_name in series.items() if len(of_name.steps)}


def read_run(folder: Path) -> Record:
    """The run in `folder`; what is missing or damaged has its default.

    Raises UnreadableError if a file is not a regular one, or too large.
    """
    info = read_yaml(folder / INFO)
    configs = read_yaml(folder / CONFIGS)
    started = _number(start_time(info) or folder.stat().st_mtime, 0.0)
    running = is_running(folder)  # asked first: what is read after a run has ended is final
    noted, logged = _last_entry(folder / ENDS), _last_entry(folder / LOG)
    status = noted.get("status")
    if running:
        status = RUNNING
    elif status not in (COMPLETED, INTERRUPTED, DIVERGED, CRASHED):
        status = KILLED
    ended = _number((logged if status in {RUNNING, KILLED} else noted).get("time"), started)
    elapsed = _number(logged.get("elapsed"), max(0.0, ended - started))
    return Record(folder, info, configs, _settings(configs), started, ended, elapsed, status, notes.read(folder))


def read_runs(folders: Iterable[Path]) -> list[Record]:
    """The runs in these folders. One that cannot be read is left out, and a line on standard error says why."""
    runs = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except UnreadableError as error:
            report(f"warning: this run cannot be read: {error}")
    return runs


def names_of(runs: Iterable[Record]) -> dict[Path, str]:
    """For each run's folder its name. If the runs have several seeds, each shows its own, even the default one."""
    runs = list(runs)
    also = ["seed.seed"] if len({run.settings["seed.seed"] for run in runs}) > 1 else []
    return {run.folder: run.given_name or name_of(run.settings, also) for run in runs}


def short_uuids(runs: Iterable[Record], at_least: int = 8) -> dict[Path, str]:
    """For each run's folder the shortest unique prefix of its uuid, of at least so many characters for all."""
    runs = list(runs)
    uuids = {run.uuid for run in runs}
    length = at_least
    while len({uuid[:length] for uuid in uuids}) < len(uuids):
        length += 1
    return {run.folder: run.uuid[:length] for run in runs}


def _lines(path: Path) -> Iterator[bytes]:
    """The complete lines of a log, without those that are too long."""
    with contextlib.suppress(OSError), open_to_read(path, LOG_LIMIT) as file:
        is_rest = False
        while line := file.readline(LINE_LIMIT):
            is_end = line.endswith(b"\n")
            if is_end and not is_rest:
                yield line
            is_rest = not is_end


def _last_entry(path: Path) -> dict[str, Any]:
    """The object on the last complete line of a log, without reading all of it."""
    with contextlib.suppress(OSError), open_to_read(path, LOG_LIMIT) as file:
        end, length = file.seek(0, os.SEEK_END), 1 << 16
        while True:
            file.seek(max(0, end - length))
            lines = file.read(length).split(b"\n")[:-1]  # after the last line break there is only half a line
            if len(lines) > 1 or length >= min(end, LINE_LIMIT):
                return _entry(lines[-1]) if lines else {}
            length *= 8
    return {}


def _entry(line: bytes) -> dict[str, Any]:
    """The object on a line, or an empty one if the line is damaged."""
    try:
        entry = parse_json(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _series(points: list[Any]) -> Series:
    """The series of logged points [step, values]; malformed points are ignored."""
    try:
        steps = np.array([step for step, _ in points], dtype=np.int64)
        values = np.array([value for _, value in points], dtype=np.float64)
        if values.ndim != 2 or values.shape[1] == 0 or (steps < 0).any() or (steps > MOST_STEPS).any():
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        whole = [point for point in points if _is_point(point)]
        whole = [point for point in whole if len(point[1]) == len(whole[0][1])]
        return _series(whole) if whole else Series(np.zeros(0, np.int64), np.zeros((0, 1)))
    return Series(steps, values)


def _joined(parts: list[Series]) -> Series:
    """One series, sorted by step. The first part determines the number of channels; others are left out."""
    parts = [part for part in parts if len(part.steps)] or parts[:1]
    parts = [part for part in parts if part.values.shape[1] == parts[0].values.shape[1]]
    steps = np.concatenate([part.steps for part in parts])
    order = steps.argsort(kind="stable")
    return Series(steps[order], np.concatenate([part.values for part in parts])[order])


def _is_point(point: Any) -> bool:
    if not (isinstance(point, list) and len(point) == 2 and isinstance(point[0], int) and 0 <= point[0] <= MOST_STEPS):
        return False
    values = point[1]
    return isinstance(values, list) and len(values) > 0 and all(map(_is_number, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 1023)


def _is_name(name: str) -> bool:
    """Whether a metric can have this name, which is shown."""
    return name.isprintable() and 0 < len(name) <= 200


def _number(value: Any, otherwise: float) -> float:
    """A time, or a length of time, in seconds; `otherwise` if a clock cannot show it."""
    return float(value) if isinstance(value, int | float) and 0 <= value < _LATEST else otherwise


def _settings(configs: dict[str, Any]) -> dict[str, Any]:
    """The settings in labml's `configs.yaml`; those that are damaged have their defaults."""
    settings: dict[str, Any] = {}
    for key, entry in configs.items():
        with contextlib.suppress(UsageError):
            settings |= from_labml({key: entry})
    return complete(settings)
