"""The copy of the dashboard's database in a file: it is kept if possible, and nothing depends on it."""

import os
import random
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.dashboard.conftest import Dashboard, Start, copies, wait_until

NEW, KEPT = "imported runs from logs: 1\n", "imported runs from logs: 0\n"


def archived(dashboard: Dashboard) -> list[str]:
    return [run["run_uuid"] for run in dashboard.get("runs/null?folder_name=archive")["runs"]]


def test_what_was_chosen_is_kept(run: Path, environment: dict[str, str], start: Start) -> None:
    """Also if the dashboard is killed soon after. Only this user can read the file; the logs have none."""
    with start() as dashboard:
        dashboard.post("runs/archive", {"run_uuids": [run.name]})
        (file,) = copies(environment).glob("*.data")
        before = file.read_bytes()
        wait_until(lambda: file.read_bytes() != before)
        dashboard.process.kill()
    with start() as dashboard:
        assert archived(dashboard) == [run.name]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        names = {path.name for path in run.parents[1].iterdir()}
        assert names == {"batch_norm", "dashboard.address", "dashboard.html"}
        dashboard.process.terminate()
        assert dashboard.process.communicate(timeout=20) == ("", "interrupted\n")
    assert {path.suffix for path in copies(environment).iterdir()} <= {".data", ".lock"}


def test_deleted_while_it_is_running(run: Path, environment: dict[str, str], start: Start) -> None:
    with start() as dashboard:
        shutil.rmtree(copies(environment))
        dashboard.post(f"run/{run.name}", {"note": "mine"})
        assert dashboard.get(f"run/{run.name}")["note"] == "mine"
        shutil.copytree(run, run.parent / "another")
        wait_until(lambda: len(dashboard.runs()) == 2)
        dashboard.process.terminate()
        _, errors = dashboard.process.communicate(timeout=20)
        warning, _ = errors.splitlines()
        assert warning.startswith("warning: archived and deleted runs and shown curves are not kept: cannot write ")


def test_logs_that_cannot_be_written_to(run: Path, work: Path, start: Start) -> None:
    for folder in (work / "logs", run.parent, run):
        folder.chmod(0o555)
    before = sorted(work.rglob("*"))
    with start(obeys_permissions=True) as dashboard:
        assert len(dashboard.runs()) == 1
        dashboard.post("runs/archive", {"run_uuids": [run.name]})
        dashboard.process.terminate()
        assert dashboard.process.communicate(timeout=20) == ("", "interrupted\n")
    assert sorted(work.rglob("*")) == before
    with start(obeys_permissions=True) as dashboard:
        assert archived(dashboard) == [run.name]


def test_a_damaged_copy_is_rebuilt(run: Path, environment: dict[str, str], command: Run) -> None:
    assert command("dashboard", "--sync").stdout == NEW
    (file,) = copies(environment).glob("*.data")
    content = file.read_bytes()
    generator = random.Random(1)
    for _ in range(8):
        damaged = bytearray(content)
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        file.write_bytes(damaged[: generator.choice([len(damaged), generator.randrange(len(damaged))])])
        done = command("dashboard", "--sync")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (0, NEW, 1)
        assert done.stderr.startswith("warning: the dashboard's data are rebuilt from the runs: ")
        assert file.read_bytes() != damaged


def _link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _database(path: Path) -> None:
    """As a dashboard of an earlier version kept it, with a view that runs what it contains."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE VIEW models AS SELECT 1")
    database.close()


@pytest.mark.parametrize("make", [_link, _pipe, _folder, _database])
def test_something_else_in_its_place(
    run: Path, environment: dict[str, str], command: Run, make: Callable[[Path], None]
) -> None:
    assert command("dashboard", "--sync").stdout == NEW
    (file,) = copies(environment).glob("*.data")
    file.unlink()
    make(file)
    done = command("dashboard", "--sync")
    assert (done.returncode, done.stdout) == (0, NEW)
    assert 1 <= len(done.stderr.splitlines()) <= 2
    if make is not _folder:
        assert command("dashboard", "--sync").stdout == KEPT


@pytest.mark.parametrize("home", ["file", "/proc"])
def test_a_home_that_cannot_be_used(
    run: Path, work: Path, environment: dict[str, str], command: Run, home: str
) -> None:
    (work / "file").touch()
    environment["HOME"] = str(work / "file") if home == "file" else home
    for _ in range(2):
        done = command("dashboard", "--sync")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (0, NEW, 1)
    assert sorted(path.name for path in work.iterdir()) == ["file", "logs"]


def test_a_full_disk(run: Path, environment: dict[str, str], start: Start) -> None:
    """Here a limit of the size of files, which is the same for the program; it is reported once."""
    with start(file_limit=100) as dashboard:
        dashboard.post("runs/archive", {"run_uuids": [run.name]})
        assert archived(dashboard) == [run.name]
        shutil.copytree(run, run.parent / "another")
        wait_until(lambda: len(dashboard.runs()) == 1)
        dashboard.process.terminate()
        _, errors = dashboard.process.communicate(timeout=20)
        warning, end = errors.splitlines()
        assert warning.endswith("File too large")
        assert end == "interrupted"
    assert list(copies(environment).glob("*.data")) == []


def test_a_database_of_an_earlier_version_is_ignored(run: Path, work: Path, command: Run) -> None:
    """In the logs, where it could be someone else's."""
    _database(work / "logs" / "dashboard.sqlite")
    content = (work / "logs" / "dashboard.sqlite").read_bytes()
    done = command("dashboard", "--sync")
    assert (done.returncode, done.stdout, done.stderr) == (0, NEW, "")
    assert (work / "logs" / "dashboard.sqlite").read_bytes() == content
