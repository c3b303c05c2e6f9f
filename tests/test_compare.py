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
    assert "aaaa0000" in (work / "compare.html").read_text()


def test_latest_n_and_svg(logs: Path, work: Path, command: Run) -> None:
    done = command("compare", "latest:5", "bbbb", "--figure", "curves.svg")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["run", "aaaa0000", "bbbb0000", "figure:", "page:"]
    assert ET.parse(work / "curves.svg").getroot().tag.endswith("svg")
    assert (work / "curves.html").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "RUN"),
        (["cccc"], 1, "no run in logs begins with 'cccc'"),
        (["latest:0"], 2, "error: latest:0: write latest:N for the N newest runs, N at least 1"),
        (["latest:-1"], 2, "error: latest:-1: write latest:N"),
        (["latest", "--figure", "curves.gif"], 2, "must end in .png or .svg"),
        (["latest", "--figure", "nowhere/curves.png"], 2, "the folder nowhere does not exist"),
        (["latest", "--logs", "nowhere"], 1, "there are no runs in nowhere"),
    ],
)
def test_wrong_use(logs: Path, work: Path, command: Run, arguments: list[str], status: int, message: str) -> None:
    done = command("compare", *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in work.iterdir()) == ["logs"]
