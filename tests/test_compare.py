"""`python -m labml_bn.compare` and `python -m labml_bn.runs` on real runs, and on runs that were cut short."""

import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import yaml
from matplotlib.axes import Axes

from labml_bn.comparison import Comparison
from labml_bn.run_record import read_run
from tests.conftest import Run


def another(run: Path, logs: Path, uuid: str, started: str = "08:00:00", **settings: Any) -> Path:
    """A copy of a run under another uuid, with other settings and another time."""
    copy = Path(shutil.copytree(run, logs / "batch_norm" / uuid))
    info = yaml.safe_load((copy / "run.yaml").read_text())
    (copy / "run.yaml").write_text(yaml.safe_dump({**info, "uuid": uuid, "trial_time": started}))
    configs = yaml.safe_load((copy / "configs.yaml").read_text())
    for key, value in settings.items():
        configs[key]["value"] = value
    (copy / "configs.yaml").write_text(yaml.safe_dump(configs))
    return copy


@pytest.fixture
def logs(trained: Path, work: Path) -> Path:
    """Two runs that differ, the second the newer."""
    another(trained, work / "logs", "aaaa0000", "08:00:00")
    another(trained, work / "logs", "bbbb0000", "09:00:00", norm="none", **{"optimizer.learning_rate": 0.01})
    return work / "logs"


def test_a_table_a_figure_and_a_page(logs: Path, work: Path, command: Run) -> None:
    done = command("compare", "aaaa", "bbbb0000")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    heading, first, second, *files = done.stdout.splitlines()
    assert re.split(r"  +", heading) == [
        *("run", "status", "epochs", "final", "best", "at epoch", "time", "norm", "optimizer.learning_rate")
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


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "RUN"),
        (["cccc"], 1, "no run in logs begins with 'cccc'"),
        (["latest:0"], 1, "no run in logs begins with 'latest:0'"),
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


def names(legend: Axes) -> list[str]:
    box = legend.get_legend()
    assert box is not None
    return [text.get_text() for text in box.get_texts()]


def test_the_curves_are_the_logged_ones(logs: Path) -> None:
    runs = [read_run(logs / "batch_norm" / uuid) for uuid in ("aaaa0000", "bbbb0000")]
    figure = Comparison(runs).figure()
    loss, accuracy, legend, *layers = figure.axes
    logged = runs[0].metrics()
    assert names(legend) == ["aaaa0000 batch_norm", "bbbb0000 no_norm lr=0.01"]
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), logged["accuracy.train"].values[:, 0])
    np.testing.assert_array_equal(accuracy.lines[1].get_ydata(), logged["accuracy.test"].values[:, 0])
    np.testing.assert_array_equal(loss.lines[1].get_xdata(), logged["loss.test"].steps)
    # The line of the training loss is made of averages: over the whole run they come to the run's mean.
    counts = np.diff(np.searchsorted(logged["loss.train"].steps, np.arange(61) * 100, side="right"))
    mean = np.average(np.asarray(loss.lines[0].get_ydata()), weights=counts)
    np.testing.assert_allclose(mean, logged["loss.train"].values.mean(), rtol=1e-12)
    assert len(layers) == 2 * 6
    for axes, name in zip(layers, sorted(name for name in logged if name.startswith("bn.")), strict=False):
        np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata()), np.median(logged[name].values, axis=1))


LONG = {
    "train_batch_size": 12345,
    "valid_batch_size": 12345,
    "inner_iterations": 12345,
    "dtype": "float64",
    "optimizer.optimizer": "SGD",
    "optimizer.momentum": 0.123456,
    "optimizer.learning_rate": 0.00123456,
    "optimizer.eps": 1.23456e-7,
    "optimizer.betas": [0.123456, 0.123456],
}


@pytest.mark.parametrize("settings", [{}, LONG], ids=["short", "long"])
def test_twenty_runs_can_be_told_apart(trained: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    """By line and marker alone, without colours; and everything has its place, however long the names are."""
    seeds = {f"{number:02}aaaaaaaa": {"seed.seed": number, **(settings if number else {})} for number in range(20)}
    folders = [another(trained, tmp_path, uuid, "08:00:00", **seed) for uuid, seed in seeds.items()]
    figure = Comparison([read_run(folder) for folder in folders]).figure()
    lines = figure.axes[0].lines[::2]
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 20
    assert len(set(names(figure.axes[2]))) == 20

    figure.savefig(tmp_path / "figure.png")  # warns, where the places cannot be had: that is an error here
    whole = figure.bbox
    legend = figure.axes[2].get_legend()
    assert legend is not None
    for box in (legend.get_window_extent(), *(axes.get_window_extent() for axes in figure.axes)):
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    above, below = figure.axes[0].get_window_extent(), figure.axes[3].get_window_extent()
    assert below.y1 < legend.get_window_extent().y0 < legend.get_window_extent().y1 < above.y0
    assert above.width > 0.35 * whole.width


@pytest.mark.parametrize("lines", [0, 1, 5])
def test_a_run_that_has_just_begun(trained: Path, tmp_path: Path, lines: int) -> None:
    run = another(trained, tmp_path, "aaaa0000")
    log = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
    (run / "log.jsonl").write_bytes(b"".join(log[:lines]) + b'{"track": {"loss.tr')
    (run / "run_log.jsonl").unlink()
    compared = Comparison([read_run(run)])
    assert compared.rows()[1][1:5] == ["killed", "0/1", "-", "-"]
    compared.figure().savefig(tmp_path / "figure.png")


def test_list_of_runs(logs: Path, command: Run) -> None:
    (logs / "batch_norm" / "aaaa0000" / "run_log.jsonl").unlink()
    done = command("runs")
    assert done.returncode == 0, done.stderr
    heading, newest, oldest = (re.split(r"  +", line) for line in done.stdout.splitlines())
    assert heading == ["run", "started", "name", "status", "epochs", "accuracy", "time"]
    assert [newest[0], newest[3], newest[4]] == ["bbbb0000", "completed", "1/1"]
    assert newest[2] == "no_norm epochs=1 train_samples=6000 valid_samples=2000 lr=0.01 use_cuda=false"
    tests = read_run(logs / "batch_norm" / "bbbb0000").metrics("accuracy.test")["accuracy.test"]
    assert newest[5] == f"{tests.values[-1, 0]:.2%}"
    assert [oldest[0], oldest[3]] == ["aaaa0000", "killed"]
    assert "there are no runs in elsewhere" in command("runs", "--logs", "elsewhere").stdout
