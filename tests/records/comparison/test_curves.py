"""The figure that compares runs: its curves are the logged metrics, and up to twenty runs can be distinguished."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from labml_bn.records import figures
from labml_bn.records.comparison.curves import Comparison
from labml_bn.records.record import read_run
from tests.conftest import another, metrics


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
    # The training loss is drawn as averages, whose weighted mean is that of the whole run.
    counts = np.diff(np.searchsorted(logged["loss.train"].steps, np.arange(61) * 100, side="right"))
    mean = np.average(np.asarray(loss.lines[0].get_ydata()), weights=counts)
    np.testing.assert_allclose(mean, logged["loss.train"].values.mean(), rtol=1e-12)
    assert len(layers) == 2 * 6
    for axes, name in zip(layers, sorted(name for name in logged if name.startswith("bn.")), strict=False):
        np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata()), np.median(logged[name].values, axis=1))


def test_seeds_are_shown(trained: Path, tmp_path: Path) -> None:
    """Also the default one, if another run has another."""
    settings: dict[str, dict[str, Any]] = {"aaaa0000": {}, "bbbb0000": {"seed.seed": 7, "channels_last": False}}
    runs = [read_run(another(trained, tmp_path, uuid, **changes)) for uuid, changes in settings.items()]
    compared = Comparison(runs)
    shown = ["aaaa0000 batch_norm seed=5", "bbbb0000 batch_norm channels_last=false seed=7"]
    assert names(compared.figure().axes[2]) == shown
    assert [row[7:] for row in compared.rows()] == [["channels_last", "seed"], ["true", "5"], ["false", "7"]]


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
def test_twenty_runs_can_be_distinguished(trained: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    """By line style and marker alone, without colours; and nothing overlaps, however long the names are."""
    seeds = {f"{number:02}aaaaaaaa": {"seed.seed": number, **(settings if number else {})} for number in range(20)}
    folders = [another(trained, tmp_path, uuid, "08:00:00", **seed) for uuid, seed in seeds.items()]
    figure = Comparison([read_run(folder) for folder in folders]).figure()
    lines = figure.axes[0].lines[::2]
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 20
    assert len(set(names(figure.axes[2]))) == 20

    figure.savefig(tmp_path / "figure.png")  # a layout that does not fit is a warning, and here an error
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
def test_a_run_that_has_just_started(trained: Path, tmp_path: Path, lines: int) -> None:
    run = another(trained, tmp_path, "aaaa0000")
    log = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
    (run / "log.jsonl").write_bytes(b"".join(log[:lines]) + b'{"track": {"loss.tr')
    (run / "run_log.jsonl").unlink()
    compared = Comparison([read_run(run)])
    assert compared.rows()[1][1:5] == ["killed", "0/1", "-", "-"]
    compared.figure().savefig(tmp_path / "figure.png")


def test_a_run_that_diverged(trained: Path, tmp_path: Path) -> None:
    """Infinite statistics are drawn without a warning, which would be an error here."""
    run = another(trained, tmp_path, "aaaa0000")
    infinite = [value for _ in range(10) for value in (float("inf"), 1.0)]
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"time": 0, "track": {"bn.norm1.running_var": [[6001, infinite]]}}) + "\n")
    Comparison([read_run(run)]).figure().savefig(tmp_path / "figure.png")


def test_the_best_epoch_is_the_best_on_held_out_images(full_run: Path, tmp_path: Path) -> None:
    """Its accuracy is that on the test images."""
    run = another(full_run, tmp_path, "aaaa0000")
    rows = Comparison([read_run(run)]).rows()
    accuracies = [f"{value:.2%}" for _, (value,) in metrics(run)["accuracy.test"]]
    assert rows[1][rows[0].index("best")] == max(accuracies)
    worst = accuracies.index(min(accuracies))
    points = [[1000 * (epoch + 1), [0.9 if epoch == worst else 0.1]] for epoch in range(3)]
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"time": 0, "track": {"accuracy.held_out": points}}) + "\n")
    rows = Comparison([read_run(run)]).rows()
    assert rows[1][rows[0].index("best")] == min(accuracies)
    assert rows[1][rows[0].index("at epoch")] == str(worst + 1)


def test_impossible_values(trained: Path, tmp_path: Path) -> None:
    """They are not drawn, nor the best; neither raises, nor warns, nor moves the axes."""
    run = another(trained, tmp_path, "aaaa0000")
    shown = Comparison([read_run(run)])
    before = [axes.get_ylim() for axes in shown.figure().axes[:2]]
    points = [[6001 + step, [value]] for step, value in enumerate([1e308, -1e308, 5e-324, float("nan"), 9e99])]
    wrong = {"loss.test": points, "accuracy.train": points[:2], "bn.norm1.running_var": points}
    held_out = {"accuracy.held_out": [[step, [value]] for step, value in enumerate([float("nan"), 2.0, 0.5, 0.9])]}
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"time": 1e308, "elapsed": -1, "track": wrong | held_out}) + "\n")
    compared = Comparison([read_run(run)])
    assert compared.rows()[1][1:6] == [*shown.rows()[1][1:4], "-", "-"]
    figure = compared.figure()
    figure.savefig(tmp_path / "figure.png")
    assert figure.axes[1].get_ylim() == before[1]


def test_names_with_dollar_signs(trained: Path, tmp_path: Path) -> None:
    """They are not formulas."""
    run = another(trained, tmp_path, r"a$\frac{b$")
    track = {f"bn.{number:02}$\\frac.running_var": [[1, [1.0, 2.0]]] for number in range(30)}
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"track": track}) + "\n")
    figure = Comparison([read_run(run)]).figure()
    figure.savefig(tmp_path / "figure.png")
    assert names(figure.axes[2]) == [r"a$\frac{ batch_norm"]
    assert len(figure.axes) == 3 + 24  # as many statistics as fit
    assert "the first 24 of 36" in figure.get_supxlabel()


def test_a_run_without_positive_losses(trained: Path, tmp_path: Path) -> None:
    run = another(trained, tmp_path, "aaaa0000")
    (run / "log.jsonl").write_text('{"track": {"loss.train": [[1, [0.0]], [2, [-1.0]]]}}\n')
    Comparison([read_run(run)]).figure().savefig(tmp_path / "figure.png")


def test_names_that_matplotlib_leaves_out_or_lacks(trained: Path, tmp_path: Path) -> None:
    """Each label is beside its own run's line, and no warning is printed, which would be an error here."""
    runs = [read_run(another(trained, tmp_path, uuid)) for uuid in ("_first", "second", "漢字")]
    figure = Comparison(runs).figure()
    figures.save(figure, tmp_path / "figure.png")
    legend = figure.axes[2].get_legend()
    assert legend is not None
    assert names(figure.axes[2]) == [" _first batch_norm", "second batch_norm", "漢字 batch_norm"]
    for handle, line in zip(legend.get_lines(), figure.axes[0].lines[::2], strict=True):
        assert (handle.get_color(), handle.get_linestyle()) == (line.get_color(), line.get_linestyle())
