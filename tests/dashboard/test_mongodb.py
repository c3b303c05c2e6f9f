"""Runs in the MongoDB that MONGO_HOST names: labml's own drivers, with a mock and with a real server.

A real server is used if TEST_MONGO_HOST names one. The imported runs stay in it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Run, metrics
from tests.dashboard.conftest import copies

IMPORT = """
import json, sys, warnings
from pathlib import Path
if sys.argv[2] == "mock":
    import mongomock, pymongo
    pymongo.MongoClient = mongomock.MongoClient
    mongomock.Database.command = lambda self, name: {"ok": 1}
from labml_bn.dashboard import database
transaction = database.open_database(Path("logs").resolve()).transaction
from labml_bn.dashboard.importing import Importer, local_user
changed = [Importer(Path("logs"), transaction).update() for _ in range(2)]
from labml_app.analyses.experiments.metrics import MetricsAnalysis
from labml_app.db import run
shown = run.get(sys.argv[1])
listed = local_user().default_project.get_runs("default")
series = {s["name"]: s["value"].tolist() for s in MetricsAnalysis.get_or_create(sys.argv[1]).get_tracking()}
print(json.dumps({"changed": changed, "name": shown.name, "listed": len(listed), "series": series}))
"""


@pytest.mark.parametrize("server", ["mock", "real"])
def test_mongodb(server: str, run: Path, work: Path, environment: dict[str, str]) -> None:
    real = os.environ.get("TEST_MONGO_HOST")
    if server == "real" and real is None:
        pytest.skip("TEST_MONGO_HOST names no MongoDB")
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, run.name, server],
        cwd=work,
        env={**environment, "MONGO_HOST": real or "localhost"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["changed"] == [1, 0]
    assert found["name"].startswith("batch_norm")
    assert found["listed"] >= 1
    assert found["series"]["loss.train"] == [value for _, (value,) in metrics(run)["loss.train"]]
    assert not copies(environment).exists()


@pytest.mark.parametrize("host", ["mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=300", "host:port", "mongodb://"])
def test_an_unreachable_mongodb(host: str, environment: dict[str, str], command: Run) -> None:
    environment["MONGO_HOST"] = host
    done = command("dashboard", "--sync")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: MONGO_HOST={host}: ")
    assert len(done.stderr.splitlines()) == 1
    assert not copies(environment).exists()
