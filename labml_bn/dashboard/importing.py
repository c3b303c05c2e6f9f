"""Importing runs from their folders into the dashboard.

A run is known by an id that `address.run_id` makes of the name of its folder in the logs, even if that is a link. It is
imported from its folder as a whole, whenever a file in it has changed since the last import. So a run can be imported
any number of times, while it is running or afterwards, and after any interruption, with the same result. What the user
has written on the dashboard (a name, a note) is in the run's folder too; which curves are shown is kept.
"""

import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from labml_app.db import project, run, status, user  # isort: skip - the next import needs it to be loaded
from labml_app.analyses.experiments.metrics import MetricsAnalysis
from labml_app.enums import RunEnums
from labml_db import Index
from pymongo.errors import PyMongoError

from labml_bn.cli.errors import UserError
from labml_bn.cli.output import report
from labml_bn.dashboard import charts
from labml_bn.dashboard.address import run_id
from labml_bn.dashboard.store import Transaction
from labml_bn.dashboard.texts import harmless
from labml_bn.records import notes
from labml_bn.records.folder import CONFIGS, ENDS, INFO, LOG, is_running, run_folders
from labml_bn.records.record import (
    COMPLETED,
    CRASHED,
    DIVERGED,
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

#: The copy of the database is written so seldom that it takes less than this part of the time.
_SHARE = 1 / 50

#: Part of every stamp: it changes when runs are imported differently, so that an older database is updated.
_VERSION = "4"

#: The largest number that the page can have: it gets them in float32.
_LARGEST = float(np.finfo(np.float32).max)

_STATUS = {
    COMPLETED: RunEnums.RUN_COMPLETED,
    INTERRUPTED: RunEnums.RUN_INTERRUPTED,
    DIVERGED: RunEnums.RUN_CRASHED,
    CRASHED: RunEnums.RUN_CRASHED,
    RUNNING: RunEnums.RUN_IN_PROGRESS,
    KILLED: RunEnums.RUN_NOT_RESPONDING,
}


class ImportedIndex(Index[str]):  # type: ignore[misc]
    """For each imported run, by its id, the id and the stamp of its folder at the last import.

    One that has no run was deleted on the dashboard.
    """


class ResultIndex(Index[str]):  # type: ignore[misc]
    """For each imported run, by its id, what the list of runs shows: its folder and its last test accuracy."""


def local_user() -> user.User:
    """The only user, whose project contains all runs. Only within a transaction."""
    return user.get_or_create_user("local", is_local_user=True)


def remove_run(uuid: str) -> None:
    """Remove a run from the database, with its metrics and charts, and from the lists."""
    shown = run.get(uuid)
    if shown is not None:
        owner: project.Project = local_user().default_project
        owner.remove_from_folder(shown.parent_folder, shown)
        owner.runs.pop(uuid, None)
        owner.save()
        shown.status.load().run_status.delete()
        run.delete(uuid)
        charts.remove(uuid)
        ResultIndex.delete(uuid)


class Importer:
    """Imports the runs in `logs`, and remembers which folders could not be read."""

    def __init__(self, logs: Path, transaction: Transaction) -> None:
        self._logs = logs
        self._transaction = transaction
        self._unreadable: dict[str, str] = {}

    def update(self, *, restore: bool = False) -> int:
        """Import new and changed runs, and remove those whose folders have gone. Returns how many were imported.

        A run that was deleted on the dashboard stays deleted as long as its folder exists, unless `restore`. A folder
        that cannot be read is reported, once until it changes.
        """
        imported = 0
        folders = {run_id(folder.name): folder for folder in run_folders(self._logs)}
        for uuid, folder in folders.items():
            stamp = uuid
            try:
                stamp = f"{uuid} {_stamp(folder)}"
                if self._unreadable.get(uuid) == stamp or not _is_wanted(uuid, stamp, restore):
                    continue
                self._import(uuid, folder, stamp)
            except PyMongoError:
                raise
            except Exception as error:  # one run must not prevent the import of the others
                if self._unreadable.get(uuid) != stamp:
                    why = str(error) if isinstance(error, UserError | OSError) else repr(error)
                    report(f"warning: cannot show {folder}: {why}")
                self._unreadable[uuid] = stamp
            else:
                self._unreadable.pop(uuid, None)
                imported += 1
        for value in ImportedIndex.get_all():
            uuid = value.partition(" ")[0]
            if uuid not in folders:
                with self._transaction():
                    remove_run(uuid)
                    ImportedIndex.delete(uuid)
                self._unreadable.pop(uuid, None)
        return imported

    def _import(self, uuid: str, folder: Path, stamp: str) -> None:
        # What takes long, reading the files, is done before the transaction: requests wait for its end.
        record = read_run(folder)
        metrics = record.metrics()
        drawable, details = _drawable(metrics), _details(record)
        result = ", ".join(filter(None, [harmless(folder.name)[:8], _result(metrics)]))
        with self._transaction():
            _store(uuid, record, drawable, details)
            ResultIndex.set(uuid, result)
            ImportedIndex.set(uuid, stamp)


class Follower(threading.Thread):
    """Imports new and changed runs in a background thread, while its block runs, and calls `save` after changes."""

    def __init__(self, importer: Importer, save: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._importer = importer
        self._save = save
        self._stopped = threading.Event()

    def run(self) -> None:
        """The thread's work. After an error, it tries again; the same error is reported only once."""
        reported, pause, next_save = "", INTERVAL, 0.0
        while not self._stopped.wait(pause):
            started = time.monotonic()
            try:
                self._importer.update()
                reported = ""
            except Exception as error:
                if str(error) != reported:
                    report(f"warning: cannot import runs: {error}")
                    reported = str(error)
            ended = time.monotonic()
            # Training needs the processor too: importing a long run takes less than a tenth of the time.
            pause = max(INTERVAL, 10 * (ended - started))
            if ended >= next_save:
                self._save()
                saved = time.monotonic()
                next_save = saved + (saved - ended) / _SHARE

    def __enter__(self) -> "Follower":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        self.join()
        self._save()


def _stamp(folder: Path) -> str:
    """A text that changes whenever the run's files change, or the run starts or stops."""
    parts = [_VERSION, "running" if is_running(folder) else "still"]
    for name in (INFO, CONFIGS, ENDS, LOG, notes.FILE):
        try:
            stat = (folder / name).lstat()  # links are not followed
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

    What has several values at each step, such as a layer's statistics, is drawn as the paper's Figure 1 draws
    activations, by percentiles.
    """
    curves = {}
    for name, series in metrics.items():
        if name.startswith("bn.") or series.values.shape[1] > 1:
            for percentile, values in zip(PERCENTILES, series.percentiles(), strict=True):
                curves[f"{name}.p{percentile}"] = series.steps, values
        else:
            curves[name] = series.steps, series.values[:, 0]
    drawable = {}
    for name, (steps, values) in sorted(curves.items()):
        finite = np.isfinite(values)
        if finite.any():
            values = np.clip(values[finite], -_LARGEST, _LARGEST)
            drawable[harmless(name)] = {"step": steps[finite].tolist(), "value": values.tolist()}
    return drawable


def _result(metrics: dict[str, Series]) -> str:
    """The last test accuracy: `accuracy 98.89% after 10 epochs`; empty if there is none yet."""
    accuracy = metrics.get("accuracy.test")
    if accuracy is None or not np.isfinite(accuracy.values[-1, 0]):
        return ""
    epochs = len(accuracy.steps)
    return f"accuracy {accuracy.values[-1, 0]:.2%} after {epochs} epoch{'s' if epochs > 1 else ''}"


def _store(uuid: str, record: Record, drawable: dict[str, Any], details: dict[str, Any]) -> None:
    """Write what has been read of a run into the database."""
    shown = run.get(uuid) or _new_run(uuid)
    shown.update(details)
    shown.save()

    state = shown.status.load()
    ending = state.run_status.load()
    ending.update({"status": _STATUS[record.status], "time": record.ended})
    ending.save()
    state.last_updated_time = record.ended
    state.save()

    shown_metrics = MetricsAnalysis.get_or_create(uuid).metrics
    before = sorted(shown_metrics.tracking)
    shown_metrics.update({"tracking": {}, "indicators": set(drawable), "step": 0})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # the app takes the mean of empty arrays
        shown_metrics.track(drawable)
    charts.update(uuid, before, sorted(drawable))


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
    info = harmless(record.info)
    return {
        "name": harmless(record.name),
        "comment": "",  # training writes the settings there, which are in the name
        "note": "",
        "start_time": record.started,
        "tags": _tags(record),
        "python_file": str(info.get("python_file", "")),
        "repo_remotes": _list(info.get("repo_remotes")),
        "commit": str(info.get("commit", "")),
        "commit_message": str(info.get("commit_message", "")),
        "configs": harmless({key: entry for key, entry in record.configs.items() if _is_config(entry)}),
        "selected_configs": [key for key in different(record.settings) if key in record.configs],
        "favourite_configs": [],
        **harmless({name: value for name, value in record.notes.items() if name not in {"name", "tags"}}),
    }


def _tags(record: Record) -> list[str]:
    """The run's tags: its sweep, those that the user has given it, and those in labml's `run.yaml`.

    If none are given, labml cuts the latter from the experiment's name; those are left out.
    """
    labmls = _list(record.info.get("tags"))
    if set(labmls) == set(str(record.info.get("name")).split("_")):
        labmls = []
    sweep = [record.sweep] if record.sweep else []
    return list(dict.fromkeys([*sweep, *record.tags, *filter(notes.is_tag, labmls)]))[: 1 + notes.MOST_TAGS]


def _is_config(entry: Any) -> bool:
    return isinstance(entry, dict) and {"name", "computed", "value"} <= entry.keys()


def _list(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else []
