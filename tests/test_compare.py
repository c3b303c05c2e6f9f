"""`python -m labml_bn.compare`, as a user runs it."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from tests.conftest import Run, another


def test_a_table_a_figure_and_a_page(logs: Path, work: Path, command: Run) -> None:
    done = command("compare", "aaaa", "bbbb0000")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    heading, first, second, accuracy, loss, *files = done.stdout.splitlines()
    assert re.split(r"  +", heading) == [
        *("run", "status", "epochs", "final", "best", "at epoch", "loss", "time", "norm", "lr")
    ]
    assert re.match(r"aaaa0000 +completed +1/1 +(\d\d\.\d\d%) +\1 +1 .* batch_norm +0\.001$", first)
    assert re.match(r"bbbb0000 +completed +1/1 +(\d\d\.\d\d%) +\1 +1 .* none +0\.01$", second)
    name = "batch_norm lr=0.001 - no_norm lr=0.01"  # the same results, as the runs are copies
    assert accuracy == f"{name}: 0.00 points of final test accuracy (one run each): no interval"
    assert loss == f"{name}: 0.0000 of final test loss (one run each): no interval"
    assert files == ["figure: compare.png", "page: compare.html"]
    assert matplotlib.image.imread(work / "compare.png").shape[1] >= 1000
    assert "aaaa0000" in (work / "compare.html").read_text()


def test_latest_n_and_svg(logs: Path, work: Path, command: Run) -> None:
    done = command("compare", "latest:5", "bbbb", "--figure", "curves.svg")
    assert done.returncode == 0, done.stderr
    first_words = [line.split()[0] for line in done.stdout.splitlines()]
    assert first_words[:3] + first_words[-2:] == ["run", "aaaa0000", "bbbb0000", "figure:", "page:"]
    assert ET.parse(work / "curves.svg").getroot().tag.endswith("svg")
    assert (work / "curves.html").exists()


def test_distributions(logs: Path, work: Path, command: Run) -> None:
    """Of the first run, which a line names. Nothing is written if it has none."""
    done = command("compare", "aaaa", "bbbb", "--distributions", "spread.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "distributions of aaaa0000: spread.png"
    assert matplotlib.image.imread(work / "spread.png").shape[1] == 1000
    (work / "compare.png").unlink()
    log = logs / "batch_norm" / "bbbb0000" / "log.jsonl"
    log.write_text('{"track": {"loss.train": [[1, [1.0]]]}}\n')
    done = command("compare", "bbbb", "--distributions", "none.png")
    assert (done.returncode, done.stdout) == (1, "")
    run = log.parent.relative_to(work)
    assert done.stderr == f"error: {run} has logged no distributions: train with track=distributions\n"
    assert not (work / "compare.png").exists()
    assert not (work / "none.png").exists()


@pytest.fixture
def seeds(logs: Path, trained: Path) -> None:
    """Of each of the two runs another one with seed 7; of the first a third one, which diverged."""
    settings: dict[str, Any] = {"norm": "none", "optimizer.learning_rate": 0.01, "seed.seed": 7}
    another(trained, logs, "aaaa7777", "08:00:00", **{"seed.seed": 7})
    another(trained, logs, "bbbb7777", "08:00:00", **settings)
    diverged = another(trained, logs, "aaaa8888", "08:00:00", **{"seed.seed": 8})
    (diverged / "run_log.jsonl").write_text('{"status": "diverged", "time": 0}\n')


@pytest.mark.usefixtures("seeds")
def test_means_over_seeds(work: Path, command: Run) -> None:
    done = command("compare", "aaaa0000", "latest:9")
    assert (done.returncode, done.stderr) == (0, "")
    heading, first, second, left_out, accuracy, _, *files = done.stdout.splitlines()
    assert re.split(r"  +", heading) == [
        *("group", "n", "final accuracy", "final loss", "time", "best accuracy", "best loss")
    ]
    assert re.match(r"batch_norm lr=0\.001 +2 +\d\d\.\d\d% ± 0\.00 +0\.\d{4} ± 0\.0000 ", first)
    assert re.match(r"no_norm lr=0\.01 +2 +\d\d\.\d\d% ± 0\.00 +0\.\d{4} ± 0\.0000 ", second)
    assert left_out == "batch_norm lr=0.001: n = 2, 1 diverged"
    equal = "0.00 points of final test accuracy (2 seeds, paired): no interval, as it is the same for every seed"
    assert accuracy == f"batch_norm lr=0.001 - no_norm lr=0.01: {equal}"
    assert files == ["figure: compare.png", "page: compare.html"]
    data = re.search(r'id="data">(.*?)</script>', (work / "compare.html").read_text())
    assert data is not None
    assert len(json.loads(data[1])["runs"]) == 5


@pytest.mark.usefixtures("seeds")
def test_every_run_on_demand(work: Path, command: Run) -> None:
    done = command("compare", "latest:9", "--runs")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()].count("run") == 1
    for uuid, status in (("aaaa0000", "completed"), ("bbbb7777", "completed"), ("aaaa8888", "diverged")):
        assert re.search(rf"^{uuid} +{status} ", done.stdout, flags=re.MULTILINE)


@pytest.mark.usefixtures("seeds")
def test_over_a_setting(work: Path, command: Run) -> None:
    done = command("compare", "latest:9", "--by", "lr", "--figure", "rates.svg")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("group ")
    assert "<!-- optimizer.learning_rate -->" in (work / "rates.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "RUN"),
        (["cccc"], 1, "no run in logs begins with 'cccc'"),
        (["latest:0"], 2, "error: latest:0: write latest:N for the N newest runs, N at least 1"),
        (["latest:-1"], 2, "error: latest:-1: write latest:N"),
        (["latest", "--figure", "curves.gif"], 2, "must end in .png or .svg"),
        (["latest", "--figure", "nowhere/curves.png"], 2, "the folder nowhere does not exist"),
        (["latest", "--distributions", "spread.txt"], 2, "must end in .png or .svg"),
        (["latest", "--distributions", "nowhere/spread.png"], 2, "the folder nowhere does not exist"),
        (["latest", "--logs", "nowhere"], 1, "there are no runs in nowhere"),
        (
            ["latest:2", "--by", "rate"],
            2,
            "--by rate: there is no such setting; the runs differ in norm, opt",
        ),
        (["latest:2", "--by", "epochs"], 2, "--by epochs: it is 1 in all runs; the runs differ in norm, optimizer"),
        (
            ["latest:2", "--by", "seed"],
            2,
            "--by seed.seed: runs that differ only in it are averaged; --runs shows each",
        ),
    ],
)
def test_wrong_use(logs: Path, work: Path, command: Run, arguments: list[str], status: int, message: str) -> None:
    done = command("compare", *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in work.iterdir()) == ["logs"]
