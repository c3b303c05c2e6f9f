import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.machinery import catalogue


@pytest.mark.slow
def test_a_seed_is_measured_and_stored(folder: Path, environment: dict[str, str]) -> None:
    """The same numbers for the same seed. If the file was edited meanwhile, nothing is stored under the old code."""

    def measured(**changes: Any) -> "subprocess.CompletedProcess[str]":
        task = {"name": "bias", "seed": 1, "size": {"batch": 8, "channels": 4}, "sweep": "s", "logs": "logs"}
        task |= {"code": catalogue.find("bias").code(), "path": "1.json"} | changes
        command = [sys.executable, "-m", "experiments.machinery.worker"]
        # Standard input stays open while it works.
        with subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stdin=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            errors = process.stderr.read()
            return subprocess.CompletedProcess(command, process.wait(), stderr=errors)

    assert measured().returncode == 0
    assert measured(path="again.json").returncode == 0
    first, again = (json.loads(Path(name).read_text()) for name in ("1.json", "again.json"))
    assert first["measured"] == again["measured"]
    assert first["started"] < first["ended"]
    stale = measured(code="0", path="stale.json")
    assert (stale.returncode, Path("stale.json").exists()) == (1, False)
    assert stale.stderr.endswith("bias.py has been changed since the experiment was started: start it again\n")
