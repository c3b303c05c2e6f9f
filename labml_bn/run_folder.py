"""Finding a run by what a person calls it: its folder, its uuid or the beginning of it, or `latest`."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from labml_bn.errors import UserError
from labml_bn.files import read_yaml

#: The folder of this project's runs among others' in the logs. It is not called labml_bn: Python, started beside a
#: folder of that name, would take it for the package.
NAME = "batch_norm"

#: The file of a run's metrics, and the one that is locked for as long as the run is going on.
LOG = "log.jsonl"
LOCK = "run.lock"

#: The file in which labml notes how a run ended, a line each time.
ENDS = "run_log.jsonl"

#: What is noted there when a run goes on.
RESUMED = "resumed"


def find_run(name: str, logs: Path, having: str = "run.yaml") -> Path:
    """The folder of the run that `name` means; `latest` is the newest that has a file like `having`.

    Raises UserError where there is none, or more than one.
    """
    folder = Path(name)
    try:
        if (folder / "run.yaml").is_file():
            return folder
        is_other = folder.exists()
    except OSError:  # a name that no file can have
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
    """The folders of the runs that `names` mean, each once; `latest:N` are the N newest, the newest of them last.

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
    """Hold a run's lock, as a training does for as long as it writes to the run; twice in one process is once.

    Raises UserError where another process has it, or where the folder cannot be written to.
    """
    lock = FileLock(run / LOCK, timeout=1, is_singleton=True)  # who only looks has it for a moment
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"{run} is going on: another training writes to it") from error
    except OSError as error:
        raise UserError(f"cannot write the run to {run}: {error.strerror or error}") from error
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
    """When a run started: the day and second that labml noted, then the time that its file was written."""
    info = read_yaml(run / "run.yaml")
    if not {"trial_date", "trial_time"} <= info.keys():
        return "", "", 0  # a run whose file was damaged is the oldest
    return str(info["trial_date"]), str(info["trial_time"]), (run / "run.yaml").stat().st_mtime_ns
