"""The commands, as processes: one experiment, all of them, an interruption, and what is typed wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def arguments(folder: Path, *words: str) -> dict[str, Any]:
    return {
        "args": [sys.executable, "-m", *words],
        "cwd": folder,
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
        "text": True,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(**arguments(folder, *words), timeout=120, check=False)


def test_quick(folder: Path) -> None:
    """Its result is not where the committed ones are. The second time nothing is measured."""
    committed = (ROOT / "experiments" / "results" / "bias.json").read_bytes()
    for words in (["experiments.bias"], ["experiments", "bias"]):
        done = run(folder, *words, "--quick")
        assert (done.returncode, done.stderr) == (0, "")
        assert "Claim 3: holds" in done.stdout
    result = json.loads((folder / "logs" / "experiments" / "quick" / "bias.json").read_text())
    assert result["command"] == "python -m experiments.bias --quick"
    assert (ROOT / "experiments" / "results" / "bias.json").read_bytes() == committed


def test_one_seed_has_no_interval(folder: Path) -> None:
    done = run(folder, "experiments.bias", "--quick", "--seeds", "1")
    assert done.returncode == 0
    assert "One seed gives no interval, so the verdict is undecided." in done.stdout
    assert "Claim 3: undecided" in done.stdout


def test_an_interrupted_experiment_continues(folder: Path) -> None:
    words = ["experiments.bias", "--quick", "--seeds", "30", "--jobs", "1"]
    seeds = folder / "logs" / "experiments" / "seeds" / "bias"
    with subprocess.Popen(**arguments(folder, *words)) as process:
        deadline = time.monotonic() + 60
        while len(list(seeds.glob("*/*.json"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1].endswith(f"continue with: python -m {' '.join(words)}")
    stored = {path: path.stat().st_mtime_ns for path in seeds.glob("*/*.json")}
    assert 2 <= len(stored) < 30
    done = run(folder, "experiments.bias", "--quick", "--seeds", str(len(stored) + 1))
    assert done.returncode == 0
    assert len(list(seeds.glob("*/*.json"))) == len(stored) + 1
    assert {path: path.stat().st_mtime_ns for path in stored} == stored


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["biass"], "there is no experiment 'biass': did you mean bias"),
        (["bias", "--seeds", "0"], "--seeds 0: write a number of at least 1"),
        (["bias", "--full"], "bias has no larger size: run it without --full"),
        (["bias", "--quik"], "--quik"),
        (["--quick"], "name an experiment, or write --all"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_one_line(folder: Path, words: list[str], message: str) -> None:
    done = run(folder, "experiments", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "logs").exists()


def test_the_list_and_the_claim(folder: Path) -> None:
    listing = run(folder, "experiments")
    assert listing.returncode == 0
    assert any(line.startswith("bias ") and "holds" in line for line in listing.stdout.splitlines())
    claim = run(folder, "experiments", "bias", "--help")
    assert claim.returncode == 0
    assert "Claim 3: a bias before batch normalization has no effect." in claim.stdout


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    (folder / "logs").touch()
    done = run(folder, "experiments.bias", "--quick", "--seeds", "2")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
