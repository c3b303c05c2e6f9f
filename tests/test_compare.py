"""`python -m labml_bn.compare`, as a user runs it."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib.image
import pytest

from tests.conftest import Run


def test_a_table_a_figure_and_a_page(logs: Path, work: Path, command: Run) -> None:
    done = command("compare", "aaaa", "bbbb0000")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    heading, first, second, *files = done.stdout.splitlines()
    assert re.split(r"  +", heading) == [
        *("run", "status", "epochs", "final", "best", "at epoch", "time", "norm", "lr")
    ]
    assert re.match(r"aaaa0000 +completed +1/1 +(\d\d\.\d\d%) +\1 +1 .* batch_norm +0\.001$", first)
    assert re.match(r"bbbb0000 +completed +1/1 +(\d\d\.\d\d%) +\1 +1 .* none +0\.01$", second)
    assert files == ["figure: compare.png", "page: compare.html"]
    assert matplotlib.image.imread(work / "compare.png").shape[1] >= 1000
    page = (work / "compare.html").read_text()
    assert page.count("<tr>") == 3
    assert "<svg" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|<script", page)


def test_latest_n_and_svg(logs: Path, work: Path, command: Run) -> None:
    done = command("compare", "latest:5", "bbbb", "--figure", "curves.svg")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["run", "aaaa0000", "bbbb0000", "figure:", "page:"]
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
    ],
)
def test_wrong_use(logs: Path, work: Path, command: Run, arguments: list[str], status: int, message: str) -> None:
    done = command("compare", *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in work.iterdir()) == ["logs"]
