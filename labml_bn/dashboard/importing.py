"""Runs from their folders into the dashboard.

What the dashboard shows of a run is made from its folder, whole, whenever a file in it has changed since the last time.
So it does not matter how often a run is imported, or whether it was finished, or what was interrupted in between.
What a person has changed on the dashboard (a name, a note, which curves are shown) stays.
"""

import json
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from labml_app.db import project, run, status, user  # isort: skip - the next one needs it to be there
from labml_app.analyses.experiments.metrics import MetricsAnalysis
from labml_app.enums import RunEnums
from labml_db import Index

from labml_bn import run_record
from labml_bn.dashboard.store import ERRORS, Transaction
from labml_bn.run_folder import ENDS, LOG, run_folders
from labml_bn.run_record import Record, is_running, read_run
from labml_bn.settings import different

#: Seconds between two looks at the folders, at least.
INTERVAL = 1.0

_STATUS = {
    run_record.COMPLETED: RunEnums.RUN_COMPLETED,
    run_record.INTERRUPTED: RunEnums.RUN_INTERRUPTED,
    run_record.CRASHED: RunEnums.RUN_CRASHED,
    run_record.RUNNING: RunEnums.RUN_IN_PROGRESS,
    run_record.KILLED: RunEnums.RUN_NOT_RESPONDING,
}


class ImportedIndex(Index[str]):  # type: ignore[misc]
    """Which state of a run's folder was imported: a run's uuid to the folder's stamp."""


def local_user() -> user.User:
    """The one user that there is, whose project has all runs."""
    return user.get_or_create_user("local", is_local_user=True)


def import_runs(logs: Path, transaction: Transaction, *, restore: bool = False) -> int:
    """Bring the dashboard up to date with the runs in `logs`. Returns how many were new or had changed.

    A run that was deleted on the dashboard stays deleted, unless `restore`.
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
            except Exception as error:  # a run that nobody thought of shall not hide the others
                print(f"warning: cannot bring in {folder}: {error!r}", file=sys.stderr)
            ImportedIndex.set(folder.name, stamp)
        changed += 1
    return changed


class Follower(threading.Thread):
    """Imports what changes in the folder of runs, in the background, for as long as a block runs."""

    def __init__(self, logs: Path, transaction: Transaction) -> None:
        super().__init__(daemon=True)
        self._logs = logs
        self._transaction = transaction
        self._stopped = threading.Event()

    def run(self) -> None:
        """The thread's work. What fails is said, once, and tried again."""
        said, pause = "", INTERVAL
        while not self._stopped.wait(pause):
            started = time.monotonic()
            try:
                import_runs(self._logs, self._transaction)
                said = ""
            except (OSError, *ERRORS) as error:
                if str(error) != said:
                    print(f"warning: cannot bring in runs from {self._logs}: {error}", file=sys.stderr)
                    said = str(error)
            # A long run takes long to read, and is still being trained: leave the machine to it most of the time.
            pause = max(INTERVAL, 10 * (time.monotonic() - started))

    def __enter__(self) -> "Follower":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        self.join()


def _stamp(folder: Path) -> str:
    """Changes whenever something of the run does."""
    parts = ["running" if is_running(folder) else "still"]
    for name in ("run.yaml", "configs.yaml", ENDS, LOG):
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


def _drawable(series: run_record.Series) -> dict[str, list[float]]:
    """A metric as the app takes it: a value per channel is shown as its mean, and what is no number is left out."""
    means = series.values.mean(axis=1)
    finite = np.isfinite(means)
    return {"step": series.steps[finite].tolist(), "value": means[finite].tolist()}


def _import(record: Record) -> None:
    metrics = {name: _drawable(series) for name, series in record.metrics().items()}
    shown = run.get(record.uuid) or _new_run(record)
    shown.configs = _plain({key: entry for key, entry in record.configs.items() if _is_config(entry)})
    shown.save()

    state = shown.status.load()
    ending = state.run_status.load()
    ending.update({"status": _STATUS[record.status], "time": record.ended})
    ending.save()
    state.last_updated_time = record.ended
    state.save()

    analysis = MetricsAnalysis.get_or_create(record.uuid)
    analysis.metrics.update({"tracking": {}, "step": 0})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # the app takes the mean of what is still empty
        analysis.track({name: series for name, series in metrics.items() if series["step"]}, record.uuid)


def _new_run(record: Record) -> run.Run:
    """A run as labml's app makes one when it first hears of it, but with its real start."""
    state = status.create_status()
    info = _plain(record.info)
    new = run.Run(
        run_uuid=record.uuid,
        name=record.name,
        comment=str(info.get("comment", "")),
        start_time=record.started,
        status=state.key,
        tags=_list(info.get("tags")),
        python_file=str(info.get("python_file", "")),
        repo_remotes=_list(info.get("repo_remotes")),
        commit=str(info.get("commit", "")),
        commit_message=str(info.get("commit_message", "")),
        start_step=0,
        selected_configs=[key for key in different(record.settings) if key in record.configs],
    )
    new.save()
    run.RunIndex.set(record.uuid, new.key)
    owner: project.Project = local_user().default_project
    owner.add_run_with_model(new)
    return new


def _is_config(entry: Any) -> bool:
    return isinstance(entry, dict) and {"name", "computed", "value"} <= entry.keys()


def _list(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else []


def _plain(value: Any) -> Any:
    """A value of labml's file as the app can store and send it: YAML knows dates and the like."""
    return json.loads(json.dumps(value, default=str))
