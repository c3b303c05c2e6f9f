"""The database with the runs in it, at the dashboard's start, and nothing left in it of runs that have gone."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from filelock import FileLock

from tests.dashboard.conftest import copies

OPENED = """
import json, shutil, sys
from pathlib import Path
from labml_bn.cli.command import run_command
from labml_bn.dashboard import database

def main():
    logs = Path("logs").resolve()
    transaction, follower, changed = database.open_with_runs(logs, restore="restore" in sys.argv)
    from labml_app.db import project, run
    from labml_bn.dashboard.importing import local_user
    with transaction():
        before = sorted(local_user().default_project.runs)
        assert project.ProjectIndex.get("").load().runs.keys() == local_user().default_project.runs.keys()
    with follower:
        pass
    print(json.dumps({"changed": changed, "runs": before}))

run_command(main)
"""


def opened(
    work: Path, environment: dict[str, str], *arguments: str
) -> "tuple[dict[str, Any], subprocess.CompletedProcess[str]]":
    done = subprocess.run(
        [sys.executable, "-c", OPENED, *arguments],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return json.loads(done.stdout or "{}"), done


def test_the_runs_are_imported_once(run: Path, work: Path, environment: dict[str, str]) -> None:
    for changed in (1, 0):
        found, done = opened(work, environment)
        assert (found, done.stderr) == ({"changed": changed, "runs": [run.name]}, "")


def test_only_one_dashboard_has_the_copy(run: Path, work: Path, environment: dict[str, str]) -> None:
    opened(work, environment)
    (copy,) = copies(environment).glob("*.data")
    with FileLock(copy.with_suffix(".lock")):
        found, done = opened(work, environment)
        assert (found["changed"], len(done.stderr.splitlines())) == (1, 1)
        found, done = opened(work, environment, "restore")
        assert (found, done.returncode) == ({}, 1)
        assert done.stderr == f"error: another dashboard shows the runs in {work / 'logs'}: end it first\n"


def test_nothing_is_left_of_a_run_that_has_gone(run: Path, work: Path, environment: dict[str, str]) -> None:
    opened(work, environment)
    (copy,) = copies(environment).glob("*.data")

    def stored() -> Counter[bytes]:
        """How many there are of each model, and of the keys of them."""
        return Counter(re.findall(rb'"(\w+):[0-9a-f]{32}"', copy.read_bytes()))

    before = stored()
    assert before[b"CustomMetricModel"] == 14
    shutil.copytree(run, run.parent / "gone")
    opened(work, environment)
    assert stored()[b"CustomMetricModel"] == 28
    shutil.rmtree(run.parent / "gone")
    found, _ = opened(work, environment)
    assert found["runs"] == [run.name]
    assert b'"gone"' not in copy.read_bytes()
    assert stored() == before
