"""The process of one seed: it takes its task from standard input, and ends with its parent."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.machinery.worker"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def task(folder: Path, name: str) -> str:
    size = {"batch": 16, "channels": 4}
    path = str(folder / "out" / "7.json")
    return json.dumps({"name": name, "seed": 7, "size": size, "sweep": "bias", "logs": "logs", "path": path}) + "\n"


def test_a_task(folder: Path) -> None:
    with start(folder) as worker:
        assert worker.stdin is not None
        worker.stdin.write(task(folder, "bias"))
        worker.stdin.flush()
        assert worker.wait(60) == 0
    stored = json.loads((folder / "out" / "7.json").read_text())
    assert stored["started"] < stored["ended"]
    assert all(value < 1e-4 for value in stored["measured"].values())


def test_an_unknown_name_is_one_line(folder: Path) -> None:
    with start(folder) as worker:
        assert worker.stdin is not None
        assert worker.stderr is not None
        worker.stdin.write(task(folder, "biass"))
        worker.stdin.flush()
        assert worker.wait(60) == 2
        assert len(worker.stderr.read().splitlines()) == 1
