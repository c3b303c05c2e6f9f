"""Importing runs from their folders into the dashboard.

A run is imported from its folder as a whole, whenever a file in it has changed since the last import. So a run can be
imported any number of times, while it is running or afterwards, and after any interruption, with the same result. What
the user has written on the dashboard (a name, a note) is in the run's folder too; which curves are shown is kept.
"""

import json
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from labml_app.db import project, run, status, user  # isort: skip - the next import needs it to be loaded
from labml_app.analyses.experiments.metrics import MetricsAnalysis
from labml_app.enums import RunEnums
from labml_db import Index

from labml_bn.dashboard import charts, notes
from labml_bn.dashboard.store import ERRORS, Transaction
from labml_bn.records.folder import CONFIGS, ENDS, INFO, LOG, is_running, run_folders
from labml_bn.records.record import (
    COMPLETED,
    CRASHED,
    INTERRUPTED,
    KILLED,
    PERCENTILES,
    RUNNING,
    Record,
    Series,
    read_run,
)
from labml_bn.settings import different

#: Minimum number of seconds between two checks of the folders.
INTERVAL = 1.0

#: Part of every stamp: it changes when runs are imported differently, so that an older database is updated.
_VERSION = "2"

_STATUS = {
    COMPLETED: RunEnums.RUN_COMPLETED,
    INTERRUPTED: RunEnums.RUN_INTERRUPTED,
    CRASHED: RunEnums.RUN_CRASHED,
    RUNNING: RunEnums.RUN_IN_PROGRESS,
    KILLED: RunEnums.RUN_NOT_RESPONDING,
}


class ImportedIndex(Index[str]):  # type: ignore[misc]
    """For each imported run, by its uuid, the stamp of its folder at the last import."""


class ResultIndex(Index[str]):  # type: ignore[misc]
    """For each imported run, by its uuid, its last test accuracy as the list of runs shows it."""


def local_user() -> user.User:
    """The only user, whose project contains all runs."""
    return user.get_or_create_user("local", is_local_user=True)


def import_runs(logs: Path, transaction: Transaction, *, restore: bool = False) -> int:
    """Import the new and changed runs in `logs`. Returns how many there were.

    A run that was deleted on the dashboard stays deleted, unless `restore` is true.
    """
    changed = 0
    for folder in run_folders(logs):
        stamp = _stamp(folder)
        if not _is_wanted(folder.name, stamp, restore):
            continue
        with transaction():
            try:
                _import(read_run(folder))
            except (OSError, *ERRORS):
                raise
            except Exception as error:  # one malformed run must not prevent the import of the others
                print(f"warning: cannot import {folder}: {error!r}", file=sys.stderr)
            ImportedIndex.set(folder.name, stamp)
        changed += 1
    return changed


class Follower(threading.Thread):
    """Imports new and changed runs in a background thread, while its block runs."""

    def __init__(self, logs: Path, transaction: Transaction) -> None:
        super().__init__(daemon=True)
        self._logs = logs
        self._transaction = transaction
        self._stopped = threading.Event()

    def run(self) -> None:
        """The thread's work. After an error, it tries again; the same error is reported only once."""
        reported, pause = "", INTERVAL
        while not self._stopped.wait(pause):
            started = time.monotonic()
            try:
                import_runs(self._logs, self._transaction)
                reported = ""
            except (OSError, *ERRORS) as error:
                if str(error) != reported:
                    print(f"warning: cannot import runs from {self._logs}: {error}", file=sys.stderr)
                    reported = str(error)
            # Training needs the processor too: importing a long run takes less than a tenth of the time.
            pause = max(INTERVAL, 10 * (time.monotonic() - started))

    def __enter__(self) -> "Follower":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        self.join()


def _stamp(folder: Path) -> str:
    """A text that changes whenever the run's files change, or the run starts or stops."""
    parts = [_VERSION, "running" if is_running(folder) else "still"]
    for name in (INFO, CONFIGS, ENDS, LOG, notes.FILE):
        try:
            stat = (folder / name).stat()
            parts.append(f"{stat.st_size} {stat.st_mtime_ns}")
        except OSError:
            parts.append("-")
    return ", ".join(parts)


def _is_wanted(uuid: str, stamp: str, restore: bool) -> bool:
    imported = ImportedIndex.get(uuid)
    if imported is None:
        return True
    same = str(imported) == stamp
    if same and not restore:
        return False
    deleted = run.get(uuid) is None
    return restore if deleted else not same


def _drawable(metrics: dict[str, Series]) -> dict[str, dict[str, list[float]]]:
    """Metrics in the app's form, without values that are NaN or infinite, sorted by name.

    A layer's statistics are drawn as the paper's Figure 1 draws activations, by percentiles over channels.
    """
    curves = {}
    for name, series in metrics.items():
        if name.startswith("bn."):
            for percentile, values in zip(PERCENTILES, series.percentiles(), strict=True):
                curves[f"{name}.p{percentile}"] = series.steps, values
        else:
            curves[name] = series.steps, series.values.mean(axis=1)
    drawable = {}
    for name, (steps, values) in sorted(curves.items()):
        finite = np.isfinite(values)
        if finite.any():
            drawable[name] = {"step": steps[finite].tolist(), "value": values[finite].tolist()}
    return drawable


def _result(metrics: dict[str, Series]) -> str:
    """The last test accuracy: `accuracy 98.89% after 10 epochs`; empty if there is none yet."""
    accuracy = metrics.get("accuracy.test")
    if accuracy is None or not np.isfinite(accuracy.values[-1, 0]):
        return ""
    epochs = len(accuracy.steps)
    return f"accuracy {accuracy.values[-1, 0]:.2%} after {epochs} epoch{'s' if epochs > 1 else ''}"


def _import(record: Record) -> None:
    metrics = record.metrics()
    drawable = _drawable(metrics)
    shown = run.get(record.uuid) or _new_run(record.uuid)
    shown.update(_details(record) | notes.read(record.folder))
    shown.save()
    ResultIndex.set(record.uuid, _result(metrics))

    state = shown.status.load()
    ending = state.run_status.load()
    ending.update({"status": _STATUS[record.status], "time": record.ended})
    ending.save()
    state.last_updated_time = record.ended
    state.save()

    shown_metrics = MetricsAnalysis.get_or_create(record.uuid).metrics
    before = sorted(shown_metrics.tracking)
    shown_metrics.update({"tracking": {}, "indicators": set(drawable), "step": 0})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # the app takes the mean of empty arrays
        shown_metrics.track(drawable)
    charts.update(record.uuid, before, list(drawable))


def _new_run(uuid: str) -> run.Run:
    """A new run, as labml's app creates one for a run's first metrics."""
    new = run.Run(run_uuid=uuid, status=status.create_status().key, start_step=0)
    new.save()
    run.RunIndex.set(uuid, new.key)
    owner: project.Project = local_user().default_project
    owner.add_run_with_model(new)
    return new


def _details(record: Record) -> dict[str, Any]:
    """What the page shows of a run besides its metrics, as long as the user has not written something else."""
    info = _plain(record.info)
    return {
        "name": record.name,
        "comment": "",  # training writes the settings there, which are in the name
        "note": "",
        "start_time": record.started,
        "tags": _tags(info),
        "python_file": str(info.get("python_file", "")),
        "repo_remotes": _list(info.get("repo_remotes")),
        "commit": str(info.get("commit", "")),
        "commit_message": str(info.get("commit_message", "")),
        "configs": _plain({key: entry for key, entry in record.configs.items() if _is_config(entry)}),
        "selected_configs": [key for key in different(record.settings) if key in record.configs],
        "favourite_configs": [],
    }


def _tags(info: dict[str, Any]) -> list[str]:
    """The run's tags. If none are given, labml cuts them from the experiment's name; those are left out."""
    tags = _list(info.get("tags"))
    return [] if set(tags) == set(str(info.get("name")).split("_")) else tags


def _is_config(entry: Any) -> bool:
    return isinstance(entry, dict) and {"name", "computed", "value"} <= entry.keys()


def _list(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else []


def _plain(value: Any) -> Any:
    """A value from a YAML file as JSON has it: dates, for example, become strings."""
    return json.loads(json.dumps(value, default=str))
