"""The picture of `compare --by KEY`."""

import itertools
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from scipy import stats

from labml_bn.cli.errors import UsageError
from labml_bn.records.comparison.by_setting import figure, key_of
from labml_bn.records.comparison.measured import read_groups
from labml_bn.records.record import Record
from tests.records.comparison.conftest import MakeRun

RATES = (0.0001, 0.001, 0.1)


def sweep(make_run: MakeRun) -> list[Record]:
    return [
        make_run(
            seed,
            [0.9 + rate / 2 + seed / 1000 + (norm == "none") / 100],
            norm=norm,
            **{"optimizer.learning_rate": rate},
        )
        for seed in range(3)
        for norm in ("batch_norm", "none")
        for rate in RATES
    ]


def drawn(axes: Axes) -> list[ErrorbarContainer]:
    return [found for found in axes.containers if isinstance(found, ErrorbarContainer)]


def legend(of: Figure) -> list[str]:
    box = of.axes[-1].get_legend()
    return [text.get_text() for text in box.get_texts()] if box else []


def test_a_curve_for_each_value_of_the_others(make_run: MakeRun, tmp_path: Path) -> None:
    of = figure(read_groups(sweep(make_run)), "optimizer.learning_rate")
    of.savefig(tmp_path / "figure.png")
    assert legend(of) == ["batch_norm", "no_norm"]
    axes = of.axes[0]
    assert (axes.get_xscale(), axes.get_xlabel()) == ("log", "optimizer.learning_rate")
    for curve, more in zip(drawn(axes), (0, 0.01), strict=True):
        line, _, (bars,) = curve.lines
        assert line is not None
        values = np.array([[0.9 + rate / 2 + seed / 1000 + more for rate in RATES] for seed in range(3)])
        np.testing.assert_allclose(np.asarray(line.get_xdata(orig=False)), RATES)
        np.testing.assert_allclose(np.asarray(line.get_ydata(orig=False)), values.mean(axis=0))
        low, high = stats.t.interval(0.95, 2, values.mean(axis=0), stats.sem(values))
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, np.array([low, high]).T)
        assert axes.get_ylim()[0] < low.min()
        assert high.max() < axes.get_ylim()[1]


def test_other_values_are_categories(make_run: MakeRun) -> None:
    of = figure(read_groups(sweep(make_run)), "norm")
    assert [label.get_text() for label in of.axes[0].get_xticklabels()] == ["batch_norm", "none"]
    assert legend(of) == ["lr=0.0001", "lr=0.001", "lr=0.1"]
    (line, _, _), *_ = (curve.lines for curve in drawn(of.axes[0]))
    assert line is not None
    np.testing.assert_allclose(np.asarray(line.get_ydata(orig=False)), [0.90105, 0.91105])


@pytest.mark.parametrize(
    ("key", "values", "scale"),
    [
        ("optimizer.momentum", [0.0, 0.5, 0.9], "linear"),
        ("train_batch_size", [16, 64, 1024], "log"),
        ("optimizer.learning_rate", [0.001, 0.002], "log"),
        ("optimizer.weight_decay", [0.0, 100.0], "linear"),
        ("channels_last", [True, False], "linear"),
        ("optimizer.betas", [[0.9, 0.99], [0.9, 0.999]], "linear"),
        ("layers", ["-".join(["20C5"] * 5), "20C3-500N", "P2"], "linear"),
    ],
)
def test_axes(make_run: MakeRun, tmp_path: Path, key: str, values: list[object], scale: str) -> None:
    of = figure(read_groups([make_run(1, [0.9], **{key: value}) for value in values]), key)
    of.savefig(tmp_path / "figure.png")
    assert of.axes[0].get_xscale() == scale
    ((line, _, _),) = (curve.lines for curve in drawn(of.axes[0]))
    assert line is not None
    assert len(np.asarray(line.get_xdata(orig=False))) == len(values)
    low, high = of.axes[0].get_xlim()
    assert all(low < place < high for place in np.asarray(line.get_xdata(orig=False)))
    assert legend(of) == []


def test_accuracies_that_are_far_apart_have_a_panel_for_the_best(make_run: MakeRun) -> None:
    accuracies = [0.1, 0.985, 0.992, 0.99]
    runs = [
        make_run(1, [accuracy], **{"optimizer.learning_rate": 10.0**-place})
        for place, accuracy in enumerate(accuracies)
    ]
    every, best, *_ = figure(read_groups(runs), "optimizer.learning_rate").axes
    assert every.get_ylim()[0] < 0.1
    assert best.get_ylim()[0] == pytest.approx(0.983)
    assert best.get_title() == "final test accuracy (axis starts at 98.3%)"


def test_groups_without_an_accuracy_are_at_the_edge(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(1, [0.9]), make_run(1, [0.1], status="diverged", **{"optimizer.learning_rate": 0.1})]
    of = figure(read_groups(runs), "optimizer.learning_rate")
    of.savefig(tmp_path / "figure.png")
    (at_edge,) = [line for line in of.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert (at_edge.get_xdata(), at_edge.get_ydata()) == ([0.1], [0.0])
    assert "Hollow" in of.get_supxlabel()
    nothing = figure(read_groups([runs[1], make_run(1, [0.1], status="diverged")]), "optimizer.learning_rate")
    nothing.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize("lowest", [0.9, 0.1], ids=["one panel", "two panels"])
@pytest.mark.parametrize("values", [8, 40])
def test_many_values_and_curves(make_run: MakeRun, tmp_path: Path, values: int, lowest: float) -> None:
    """The best eight curves; no name of a value overlaps another."""
    layers = [f"{20 + number}C5-P2-500N" for number in range(values)]
    curves = 12 if values == 8 else 1
    runs = [
        make_run(1, [0.9 + rate / 1000], layers=name, **{"optimizer.learning_rate": 0.1 * (rate + 1)})
        for name in layers
        for rate in range(curves)
    ]
    runs[0] = make_run(1, [lowest], layers=layers[0], **{"optimizer.learning_rate": 0.1})
    of = figure(read_groups(runs), "layers")
    of.savefig(tmp_path / "figure.png")
    assert matplotlib.image.imread(tmp_path / "figure.png").shape[0] <= 1200
    for axes in of.axes[:-1]:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(one.x1 <= other.x0 for one, other in itertools.pairwise(boxes))
    if curves > 8:
        assert len(drawn(of.axes[0])) == 8
        assert "Drawn are the 8 of 12 curves with the best accuracy." in of.get_supxlabel()


def test_keys(make_run: MakeRun) -> None:
    runs = sweep(make_run)
    for name in ("lr", "LR", "learning_rate", "optimizer.learning_rate"):
        assert key_of(name, runs) == "optimizer.learning_rate"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rate", "--by rate: there is no such setting; the runs differ in norm, optimizer.learning_rate"),
        ("epochs", "--by epochs: it is 3 in all runs; the runs differ in norm, optimizer.learning_rate"),
        (
            "seed",
            "--by seed.seed: runs that differ only in it are averaged; --runs shows each; the runs differ in norm",
        ),
    ],
)
def test_wrong_keys(make_run: MakeRun, name: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        key_of(name, sweep(make_run))
    assert str(error.value).startswith(message)


def test_runs_that_do_not_differ(make_run: MakeRun) -> None:
    with pytest.raises(
        UsageError, match=r"^--by optimizer\.learning_rate: it is 0\.001 in all runs; the runs do not differ"
    ):
        key_of("lr", [make_run(1), make_run(2)])
