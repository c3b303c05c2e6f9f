"""The columns of a table of runs: their names and types, and the value that a run has in each.

A setting is written as on the command line: by its key or its short form (`lr`). A metric's final value has the
metric's name (`accuracy.test`), its best value `best.` before it (`results.py`). Logs are read only for columns that
need them, and again only if they have changed.
"""

import difflib
import math
import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from labml_bn.cli.errors import UsageError
from labml_bn.records.folder import LOG
from labml_bn.records.record import (
    COMPLETED,
    CRASHED,
    DIVERGED,
    INTERRUPTED,
    KILLED,
    RUNNING,
    Record,
)
from labml_bn.records.results import BEST, results
from labml_bn.settings import KEYS, key_of, short

#: The metrics that are logged once an epoch: their lines are found without parsing the others.
_ONCE_AN_EPOCH = tuple(f"{kind}.{images}" for kind in ("accuracy", "loss") for images in ("test", "held_out"))

#: The metrics of this version, final and best. A run may lack some, and have others.
METRICS = [
    f"{best}{kind}.{images}"
    for best in ("", BEST)
    for kind in ("accuracy", "loss")
    for images in ("test", "held_out", "valid", "train")
]


@dataclass(frozen=True)
class Column:
    """A column: its name, the type of its values, what a run has there, and the possible values if they are few.

    The type `set` is that of the tags, a list of strings without an order; `list` one of numbers. A text that is
    missing is empty, a number NaN.
    """

    name: str
    type: type
    value: Callable[[Record], Any]
    options: Sequence[str] = ()


def _setting(key: str) -> Column:
    takes = KEYS[key].takes
    return Column(key, KEYS[key].type, lambda run: run.settings[key], takes if isinstance(takes, list) else ())


def _metric(name: str) -> Column:
    return Column(name, float, lambda run: _reached(run, all_metrics=not _is_once_an_epoch(name)).get(name, math.nan))


def _started(run: Record) -> datetime:
    return datetime.fromtimestamp(run.started, timezone.utc)


def _epochs_done(run: Record) -> int:
    return int(_reached(run).get(_EPOCHS, 0))


_COLUMNS = [
    Column("run", str, lambda run: run.uuid),
    Column("name", str, lambda run: run.name),
    Column("status", str, lambda run: run.status, (RUNNING, COMPLETED, INTERRUPTED, DIVERGED, CRASHED, KILLED)),
    Column("sweep", str, lambda run: run.sweep or ""),
    Column("tags", set, lambda run: run.tags),
    Column("note", str, lambda run: run.notes.get("note", "")),
    Column("started", datetime, _started),
    Column("time", float, lambda run: run.elapsed),
    Column("epochs_done", int, _epochs_done),
    *map(_setting, KEYS),
]

#: The columns that every run has, by their names.
COLUMNS = {column.name: column for column in _COLUMNS}


def all_columns(runs: Iterable[Record]) -> list[Column]:
    """The columns of these runs: those that every run has, then each metric that any of them has logged."""
    return [*COLUMNS.values(), *map(_metric, _logged(runs))]


def find_column(name: str, runs: Iterable[Record]) -> Column:
    """The column that is written as `name`. Raises UsageError, with the nearest names, if these runs have none."""
    if name in COLUMNS:
        return COLUMNS[name]
    key = key_of(name)
    if key is not None:
        return COLUMNS[key]
    if name in METRICS or name in (logged := _logged(runs)):
        return _metric(name)
    known = [*COLUMNS, *map(short, KEYS), *METRICS, *logged]
    near = difflib.get_close_matches(name[:100], dict.fromkeys(known), 3, 0.5)
    hint = f": did you mean {' or '.join(near)}?" if near else ": columns are settings, metrics, run, status, tags ..."
    raise UsageError(f"unknown column {reprlib.repr(name)}{hint}")


def is_missing(value: Any) -> bool:
    """Whether a run has no value in a column."""
    return value in ("", []) or (isinstance(value, float) and math.isnan(value))


#: The number of completed epochs, among the results of a run.
_EPOCHS = "epochs"

#: For each log that was read, and each of the two ways to read it, its size and time, and the results.
_cache: dict[tuple[Path, bool], tuple[tuple[int, int], dict[str, float]]] = {}


def _logged(runs: Iterable[Record]) -> list[str]:
    """The names of all results that any of these runs has: this version's first."""
    found = {name for run in runs for name in _reached(run, all_metrics=True)} - {_EPOCHS}
    return [name for name in METRICS if name in found] + sorted(found.difference(METRICS))


def _is_once_an_epoch(name: str) -> bool:
    return name.removeprefix(BEST) in _ONCE_AN_EPOCH


def _reached(run: Record, *, all_metrics: bool = False) -> dict[str, float]:
    """A run's results, of all metrics or only of those that are logged once an epoch, and its completed epochs."""
    log = run.folder / LOG
    try:
        status = log.lstat()
        stamp = status.st_size, status.st_mtime_ns
    except OSError:
        stamp = 0, 0
    read, found = _cache.get((log, all_metrics), ((-1, -1), {}))
    if read != stamp:
        metrics = run.metrics(*() if all_metrics else _ONCE_AN_EPOCH)
        tests = metrics.get("accuracy.test")
        found = {_EPOCHS: len(tests.steps) if tests else 0, **results(metrics)}
        _cache[log, all_metrics] = stamp, found
    return found
