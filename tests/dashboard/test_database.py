"""A damaged or manipulated database does no harm: it is reported, and can be rebuilt."""

import sqlite3
from pathlib import Path

from tests.conftest import Run
from tests.dashboard.conftest import Start


def test_stored_pickles_cannot_run_code(run: Path, work: Path, start: Start) -> None:
    with start() as dashboard:
        assert len(dashboard.runs()) == 1
        evil = f"cos\nsystem\n(S'touch {work}/evil'\ntR.".encode()
        with sqlite3.connect(work / "logs" / "dashboard.sqlite") as database:
            database.execute("UPDATE models SET data = ? WHERE model = 'Run'", (evil,))
        assert dashboard.request("GET", f"/api/v1/run/{run.name}")[0] == 500
        assert not (work / "evil").exists()


def test_a_damaged_database_is_reported(run: Path, work: Path, command: Run) -> None:
    assert command("dashboard", "--sync").returncode == 0
    file = work / "logs" / "dashboard.sqlite"
    with sqlite3.connect(file) as database:
        database.execute("UPDATE models SET data = x'00'")
    database.close()
    for _ in range(2):
        done = command("dashboard", "--sync")
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert "dashboard.sqlite" in done.stderr
        assert done.stderr.endswith(". If it is damaged, delete it: it is rebuilt from the runs\n")
        file.write_bytes(b"not a database" * 100)
    for other in work.glob("logs/dashboard.sqlite*"):
        other.unlink()
    assert command("dashboard", "--sync").stdout == "imported runs from logs: 1\n"
