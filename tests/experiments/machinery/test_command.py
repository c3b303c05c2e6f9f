import json
from pathlib import Path

import pytest

from experiments.machinery import catalogue
from experiments.machinery.results import RESULTS
from tests.experiments.machinery.conftest import Lab


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in RESULTS.parent.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.mark.slow
def test_a_quick_run(lab: Lab, folder: Path) -> None:
    """Its result is not that of the full size. One seed decides nothing."""
    before = contents()
    done = lab("bias", "--quick")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Claim 3: holds, in " in done.stdout
    assert "Look at it: logs/experiments/quick/bias.png and bias.json" in done.stdout
    result = json.loads(Path("logs/experiments/quick/bias.json").read_text())
    assert (result["verdict"], result["command"]) == ("holds", "python -m experiments.bias --quick")
    assert list(result["seeds"]) == ["1", "2", "3"]
    one = lab("bias", "--quick", "--seeds", "1")
    assert "One seed gives no interval, so the verdict is undecided.\nClaim 3: undecided" in one.stdout
    assert Path("logs/experiments/quick-seeds-1/bias.png").is_file()
    assert contents() == before


def test_the_list(lab: Lab) -> None:
    done = lab()
    assert (done.returncode, done.stderr) == (0, "")
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["experiment", "cost", "verdict", "claim"]
    assert [line.split()[0] for line in lines] == [entry.name for entry in catalogue.entries()]


def test_help_is_the_claim(lab: Lab) -> None:
    done = lab("bias", "--help")
    assert "Refuted if: either is more than rounding." in done.stdout
    assert "--seeds N" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["biass"], "there is no experiment 'biass': did you mean bias"),
        (["bias", "--seeds", "0"], "--seeds 0: write a number of at least 1"),
        (["bias", "--jobs", "-1"], "--jobs -1: write a number of at least 1"),
        (["bias", "--full"], "bias has no larger size: run it without --full"),
        (["bias", "--full", "--quick"], "--quick and --full exclude each other"),
        (["--quick"], "name an experiment, or write --all"),
    ],
)
def test_wrong_use(lab: Lab, arguments: list[str], error: str) -> None:
    done = lab(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {error}")
