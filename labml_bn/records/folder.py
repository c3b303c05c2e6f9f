"""Finding a run by its folder, its uuid or the beginning of it, or `latest`; and the lock of a run."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from labml_bn.cli.errors import UserError, reason
from labml_bn.cli.files import read_yaml

#: The subfolder of this project's runs in the logs. It is not called labml_bn: Python, started in a folder with a
#: subfolder of that name, would import it as the package.
NAME = "batch_norm"

#: labml's files of a run's start (time, commit) and of its settings.
INFO = "run.yaml"
CONFIGS = "configs.yaml"

#: The file of a run's metrics, and the file that is locked while the run is running.
LOG = "log.jsonl"
LOCK = "run.lock"

#: The file in which labml records how a run ended, one line each time.
ENDS = "run_log.jsonl"

#: The status recorded there when a run is resumed.
RESUMED = "resumed"


def find_run(name: str, logs: Path, having: str = INFO) -> Path:
    """The folder of the run that `name` means; `latest` is the newest that has a file matching `having`.

    Raises UserError if there is none, or more than one.
    """
    folder = Path(name)
    try:
        if (folder / INFO).is_file():
            return folder
        is_other = folder.exists()
    except OSError:  # not a possible file name
        is_other = False
    if is_other and name != "latest":
        raise UserError(f"{name} is not the folder of a run: it has no {INFO}")
    runs = run_folders(logs)
    if not runs:
        raise UserError(f"there are no runs in {logs} (python -m labml_bn.train makes one)")
    if name == "latest":
        having_it = [run for run in list_runs(logs) if any(run.glob(having))]
        if not having_it:
            raise UserError(f"no run in {logs} has {having} yet")
        return having_it[0]
    found = [run for run in runs if run.name.startswith(name)]
    if not found:
        raise UserError(f"no run in {logs} begins with {name!r}; the latest is {list_runs(logs)[0].name}")
    if len(found) > 1:
        names = ", ".join(run.name for run in found[:5])
        raise UserError(f"{name!r} is the beginning of {len(found)} runs: {names}")
    return found[0]


def find_runs(names: Sequence[str], logs: Path) -> list[Path]:
    """The folders of the runs that `names` mean, without duplicates; `latest:N` are the N newest, the newest last.

    Raises UserError as `find_run` does.
    """
    found: dict[Path, Path] = {}
    for name in names:
        several = re.fullmatch(r"latest:([1-9][0-9]*)", name)
        runs = list_runs(logs)[: int(several[1])][::-1] if several else []
        for run in runs or [find_run("latest" if several else name, logs)]:
            found.setdefault(run.resolve(), run)
    return list(found.values())


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's lock, as a process does while it writes to the run. Reentrant within a process.

    Raises UserError if another process holds it, or if the folder cannot be written to.
    """
    lock = FileLock(run / LOCK, timeout=1, is_singleton=True)  # `is_running` holds it for a moment
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"{run} is in use by another process") from error
    except OSError as error:
        raise UserError(f"cannot write the run to {run}: {reason(error)}") from error
    try:
        yield
    finally:
        lock.release()


def is_running(folder: Path) -> bool:
    """Whether a process holds the run's lock. The system releases it however the process ends."""
    lock = folder / LOCK
    if not lock.exists():
        return False
    try:
        # Another call of this function may hold it for a moment.
        with FileLock(lock, timeout=0.1, poll_interval=0.01):
            return False
    except Timeout:
        return True
    except OSError:  # a read-only folder
        return False


def list_runs(logs: Path) -> list[Path]:
    """The folders of all runs under `logs`, newest first. A run whose start time is damaged counts as the oldest."""

    def started(run: Path) -> tuple[float, int]:
        return start_time(read_yaml(run / INFO)) or 0.0, (run / INFO).stat().st_mtime_ns

    return sorted(run_folders(logs), key=started, reverse=True)


def run_folders(logs: Path) -> list[Path]:
    """The folders of all runs under `logs`, by name."""
    return sorted(path.parent for path in logs.glob(f"{NAME}/*/{INFO}"))


def start_time(info: dict[str, Any]) -> float | None:
    """The start of a run in seconds since 1970, from the content of `run.yaml`; None if it is damaged."""
    try:
        return datetime.strptime(f"{info['trial_date']} {info['trial_time']}", "%Y-%m-%d %H:%M:%S").timestamp()
    except (KeyError, ValueError):
        return None
