"""Finding a run by its folder, its uuid or the beginning of it, or `latest`; what is in its folder; and its lock.

`finding.py` finds several: those of a sweep, or those that a pattern chooses.
"""

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from labml_bn.cli.errors import UsageError, UserError, reason
from labml_bn.cli.output import report
from labml_bn.cli.received import UnreadableError, check_regular, read_yaml

if sys.platform != "win32":
    import fcntl

#: The subfolder of this project's runs in the logs. It is not called labml_bn: Python, started in a folder with a
#: subfolder of that name, would import it as the package.
NAME = "batch_norm"

#: labml's files of a run's start (time, commit) and of its settings.
INFO = "run.yaml"
CONFIGS = "configs.yaml"

#: The entry in `run.yaml` that sorts a run if its start time does not: in seconds since 1970, as that.
ORDER = "order"

#: The entry in `run.yaml` with the name of the sweep that a run is part of.
SWEEP = "sweep"

#: The file of a run's metrics, and the file that is locked while the run is running.
LOG = "log.jsonl"
LOCK = "run.lock"

#: The file in which labml records how a run ended, one line each time.
ENDS = "run_log.jsonl"

#: The status recorded there when a run is resumed.
RESUMED = "resumed"

#: The subfolder of a run's checkpoints. They are named by the number of training images seen.
CHECKPOINTS = "checkpoints"
CHECKPOINT = re.compile(r"[0-9]{12}\.pt")

#: The entry in `configs.yaml` with the folder of the data sets, relative to the run's.
DATA_FOLDER = "data_folder"

#: What means the N newest runs.
LATEST = re.compile(r"latest:(.*)")

_SWEEP_NAME = re.compile("[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


def find_run(name: str, logs: Path, check: Callable[[Path], object] = lambda run: None) -> Path:
    """The folder of the run that `name` means; `latest` is the newest for which `check` does not raise UserError.

    If newer ones were passed over, a line on standard error says so, with the reason. Raises UserError if there is no
    such run, or more than one, UsageError for what means several: `latest:N`, a sweep, a pattern.
    """
    folder = Path(name)
    try:
        if (folder / INFO).is_file():
            return folder
        is_other = folder.exists()
    except OSError:  # not a possible file name
        is_other = False
    runs = run_folders(logs)
    is_name = any(run.name == name for run in runs)
    sweeps = {} if name == "latest" or is_name else list_sweeps(logs)
    means_several = LATEST.fullmatch(name) or name in sweeps or (is_pattern(name) and not is_other and not is_name)
    if is_other and name != "latest" and not means_several and not is_name:
        raise UserError(f"{name} is not the folder of a run: it has no {INFO}")
    if not runs:
        raise UserError(f"there are no runs in {logs} (python -m labml_bn.train makes one)")
    if name == "latest":
        return _find_latest(logs, check)
    if means_several:
        what = "is a sweep of" if name in sweeps else "means"
        raise UsageError(f"{name} {what} several runs, and this command takes one: write latest, a uuid or a folder")
    found = [run for run in runs if run.name == name] or [run for run in runs if run.name.startswith(name)]
    if not found:
        names = ", ".join([*list(sweeps)[-5:], *(["..."] if len(sweeps) > 5 else [])])
        others = f"; sweeps: {names}" if sweeps else ""
        raise UserError(f"no run in {logs} begins with {name!r}; the latest is {list_runs(logs)[0].name}{others}")
    if len(found) > 1:
        names = ", ".join([*(run.name for run in found[:5]), *(["..."] if len(found) > 5 else [])])
        raise UserError(f"{name!r} is the beginning of {len(found)} runs: {names}")
    return found[0]


def _find_latest(logs: Path, check: Callable[[Path], object]) -> Path:
    passed_over: list[str] = []
    for run in list_runs(logs):
        try:
            check(run)
        except UserError as error:
            passed_over.append(str(error))
            continue
        if passed_over:
            more = f"; {len(passed_over) - 1} more" if len(passed_over) > 1 else ""
            message = f"latest is {run}; newer, but passed over: {passed_over[0]}{more}"
            report(message)
        return run
    raise UserError(f"no run in {logs} can be used; the newest: {passed_over[0]}")


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, the latest first: what has a checkpoint's name in a folder that is not a link."""
    folder = run / CHECKPOINTS
    if folder.is_symlink():
        return []
    return sorted((path for path in folder.glob("*.pt") if CHECKPOINT.fullmatch(path.name)), reverse=True)


def check_files(run: Path) -> None:
    """Raise UnreadableError if something in a run's folder could lead what is written elsewhere: a link, a pipe.

    A folder is allowed only if its name is not one of a file.
    """
    for folder in (run, run / CHECKPOINTS):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_symlink() or path.suffix or not path.is_dir():
                check_regular(path)


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's lock, as a process does while it writes to the run: that of the file `LOCK`, and of its folder.

    Someone may delete the file while the run is running. The folder cannot be locked on Windows and on NFS.
    Raises UserError if the lock is held, or if the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:  # `is_running` holds them for a moment
            stack.enter_context(FileLock(run / LOCK, timeout=1))
            stack.enter_context(_locked_folder(run, timeout=1))
        except Timeout as error:
            raise UserError(f"{run} is in use by another process") from error
        except OSError as error:
            raise UserError(f"cannot write the run to {run}: {reason(error)}") from error
        yield


def is_running(folder: Path) -> bool:
    """Whether a process holds the run's lock. The system releases it however the process ends."""
    lock = folder / LOCK
    try:
        with _locked_folder(folder, shared=True):
            pass
        if not lock.exists():
            return False
        # Another call of this function may hold it for a moment.
        with FileLock(lock, timeout=0.1, poll_interval=0.01):
            return False
    except Timeout:
        return True
    except OSError:  # a read-only folder
        return False


@contextlib.contextmanager
def _locked_folder(folder: Path, shared: bool = False, timeout: float = 0) -> Iterator[None]:
    """Hold the lock of a folder, if there are such locks. Raises filelock's Timeout after so many seconds."""
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end = time.monotonic() + timeout
        while not _lock(descriptor, shared):
            if time.monotonic() >= end:
                raise Timeout(str(folder))
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, shared: bool) -> bool:
    """Lock a folder, now. False if another process has locked it."""
    assert sys.platform != "win32"
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # NFS does not lock folders
        pass
    return True


def list_runs(logs: Path) -> list[Path]:
    """The folders of all runs under `logs`, newest first. A run whose start time is damaged counts as the oldest."""
    return sorted(run_folders(logs), key=_order, reverse=True)


def next_order(info: dict[str, Any], logs: Path) -> float | None:
    """The `ORDER` of a new run with this `run.yaml`: after all in `logs`. None if its start time says that already.

    It does not if the clock went back, as it does in each autumn, or if a run was copied from another machine.
    """
    newest = max((_order(run)[0] for run in run_folders(logs)), default=0.0)
    return newest + 1 if (start_time(info) or 0.0) <= newest else None


def _order(run: Path) -> tuple[float, int]:
    """What sorts runs from the oldest to the newest."""
    try:
        info = read_yaml(run / INFO)
        recorded = info.get(ORDER)
        if not (isinstance(recorded, int | float) and abs(recorded) < 1e12):
            recorded = start_time(info)
        return recorded or 0.0, (run / INFO).stat().st_mtime_ns
    except (UnreadableError, OSError):
        return 0.0, 0


def run_folders(logs: Path) -> list[Path]:
    """The folders of all runs under `logs`, by name."""
    return sorted(path.parent for path in logs.glob(f"{NAME}/*/{INFO}"))


def is_sweep_name(name: str) -> bool:
    """Whether a sweep can have this name: letters and digits, inside it also `.`, `_` and `-`, at most 100 in all."""
    return _SWEEP_NAME.fullmatch(name) is not None and name != "latest"


def sweep_of(info: dict[str, Any]) -> str | None:
    """The name of the sweep that a run is part of, from the content of `run.yaml`; None if it is of none."""
    name = info.get(SWEEP)
    return name if isinstance(name, str) and is_sweep_name(name) else None


def list_sweeps(logs: Path) -> dict[str, list[Path]]:
    """The sweeps under `logs` by their names, each with the folders of its runs, oldest first. The newest is last."""
    sweeps: dict[str, list[Path]] = {}
    for run in reversed(list_runs(logs)):
        with contextlib.suppress(UnreadableError):
            name = sweep_of(read_yaml(run / INFO))
            if name is not None:
                sweeps.setdefault(name, []).append(run)
    return sweeps


def is_pattern(name: str) -> bool:
    """Whether what a user writes for runs is an expression, such as `norm=none` (`query.py`)."""
    return re.search("[=<>]", name) is not None


def start_time(info: dict[str, Any]) -> float | None:
    """The start of a run in seconds since 1970, from the content of `run.yaml`; None if it is damaged."""
    try:
        return datetime.strptime(f"{info['trial_date']} {info['trial_time']}", "%Y-%m-%d %H:%M:%S").timestamp()
    except (KeyError, ValueError, OverflowError, OSError):
        return None
