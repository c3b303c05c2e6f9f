"""Finding a run by its folder, its uuid or the beginning of it, or `latest`; and the lock of a run."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from labml_bn.cli.errors import UserError, reason
from labml_bn.cli.files import read_yaml

#: The subfolder of this project's runs in the logs. It is not called labml_bn: Python, started in a folder with a
#: subfolder of that name, would import it as the package.
NAME = "batch_norm"

#: The file of a run's metrics, and the file that is locked while the run is running.
LOG = "log.jsonl"
LOCK = "run.lock"

#: The file in which labml records how a run ended, one line each time.
ENDS = "run_log.jsonl"

#: The status recorded there when a run is resumed.
RESUMED = "resumed"


def find_run(name: str, logs: Path, having: str = "run.yaml") -> Path:
    """The folder of the run that `name` means; `latest` is the newest that has a file matching `having`.

    Raises UserError if there is none, or more than one.
    """
    folder = Path(name)
    try:
        if (folder / "run.yaml").is_file():
            return folder
        is_other = folder.exists()
    except OSError:  # not a possible file name
        is_other = False
    if is_other and name != "latest":
        raise UserError(f"{name} is not the folder of a run: it has no run.yaml")
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


def list_runs(logs: Path) -> list[Path]:
    """The folders of all runs under `logs`, newest first."""
    return sorted(run_folders(logs), key=_started, reverse=True)


def run_folders(logs: Path) -> list[Path]:
    """The folders of all runs under `logs`, by name."""
    return sorted(path.parent for path in logs.glob(f"{NAME}/*/run.yaml"))


def _started(run: Path) -> tuple[str, str, int]:
    """A run's start time: the date and second that labml recorded, then the time when its file was written."""
    info = read_yaml(run / "run.yaml")
    if not {"trial_date", "trial_time"} <= info.keys():
        return "", "", 0  # a run whose file is damaged counts as the oldest
    return str(info["trial_date"]), str(info["trial_time"]), (run / "run.yaml").stat().st_mtime_ns
