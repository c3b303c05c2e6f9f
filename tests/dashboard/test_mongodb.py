"""Runs in a MongoDB, where MONGO_HOST names one: labml's own drivers, over a stand-in and over a real server.

A real server is used where TEST_MONGO_HOST names one; the runs that the test brings in stay there.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import metrics
from tests.dashboard.conftest import Start

IMPORT = """
import json, sys, warnings
from pathlib import Path
if sys.argv[2] == "stand-in":
    import mongomock, pymongo
    pymongo.MongoClient = mongomock.MongoClient
    mongomock.Database.command = lambda self, name: {"ok": 1}
from labml_bn.dashboard import server
transaction = server.open_database(Path("not-used.sqlite"), 5005)
from labml_bn.dashboard.importing import import_runs
changed = [import_runs(Path("logs"), transaction) for _ in range(2)]
from labml_app.analyses.experiments.metrics import MetricsAnalysis
from labml_app.db import run, user
shown = run.get(sys.argv[1])
listed = user.get_or_create_user("local", is_local_user=True).default_project.get_runs("default")
series = {s["name"]: s["value"].tolist() for s in MetricsAnalysis.get_or_create(sys.argv[1]).get_tracking()}
print(json.dumps({"changed": changed, "name": shown.name, "listed": len(listed), "series": series}))
"""


@pytest.mark.parametrize("server", ["stand-in", "real"])
def test_mongodb(server: str, trained: Path, work: Path, environment: dict[str, str], start: Start) -> None:
    real = os.environ.get("TEST_MONGO_HOST")
    if server == "real" and real is None:
        pytest.skip("TEST_MONGO_HOST names no MongoDB")
    shutil.copytree(trained, work / "logs" / "batch_norm" / trained.name)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, trained.name, server],
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
    assert found["series"]["loss.train"] == [value for _, (value,) in metrics(trained)["loss.train"]]
    assert not (work / "not-used.sqlite").exists()
