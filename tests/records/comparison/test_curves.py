"""The picture of `compare`: its curves are the logged ones, it needs no colours, and it has a largest size."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import FillBetweenPolyCollection, LineCollection
from matplotlib.figure import Figure
from scipy import stats

from labml_bn.records import figures
from labml_bn.records.comparison.curves import figure_of_groups, figure_of_runs
from labml_bn.records.comparison.measured import read_groups
from labml_bn.records.record import Record
from tests.records.comparison.conftest import MakeRun


def of_groups(runs: Sequence[Record]) -> Figure:
    return figure_of_groups(read_groups(runs))


def of_runs(runs: Sequence[Record]) -> Figure:
    return figure_of_runs(read_groups(runs), runs)


def names(figure: Figure) -> list[str]:
    box = figure.axes[4].get_legend()
    assert box is not None
    return [text.get_text() for text in box.get_texts()]


def band(axes: Axes, number: int, step: float) -> tuple[float, float]:
    """The ends of a band at a step."""
    found = [shape for shape in axes.collections if isinstance(shape, FillBetweenPolyCollection)][number]
    points = np.asarray(found.get_paths()[0].vertices)
    values = points[points[:, 0] == step, 1]
    return float(values.min()), float(values.max())


def check_layout(figure: Figure, path: Path) -> None:
    """Nothing is outside the picture, no axes or texts overlap, and it is at most 1200 pixels high."""
    figure.savefig(path)  # a layout that does not fit is a warning, and here an error
    height, width = matplotlib.image.imread(path).shape[:2]
    assert height <= 1200
    assert 1000 <= width <= 1500
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    legend = figure.axes[4].get_legend()
    assert legend is not None
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes if axes is not figure.axes[4]]
    boxes += [legend.get_window_extent(), figure._supxlabel.get_window_extent()]  # type: ignore[attr-defined]
    for number, box in enumerate(boxes):
        assert box is not None
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        for other in boxes[:number]:
            assert other is not None
            apart_x = box.x1 <= other.x0 + 1 or other.x1 <= box.x0 + 1
            apart_y = box.y1 <= other.y0 + 1 or other.y1 <= box.y0 + 1
            assert apart_x or apart_y, (number, box, other)
    for axes in figure.axes[:4]:
        assert axes.get_window_extent().height > 100
        assert axes.get_window_extent().width > 0.35 * width


def test_the_curves_of_a_run_are_the_logged_ones(make_run: MakeRun) -> None:
    runs = [make_run(), make_run(norm="none", **{"optimizer.learning_rate": 0.01})]
    figure = of_runs(runs)
    test_loss, test_accuracy, train_loss, train_accuracy, _, *layers = figure.axes
    logged = runs[0].metrics()
    assert names(figure) == ["0000aaaa batch_norm", "0001aaaa no_norm lr=0.01"]
    panels = (test_loss, test_accuracy, train_loss, train_accuracy)
    for axes, name in zip(panels, ("loss.test", "accuracy.test", "loss.train", "accuracy.train"), strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), logged[name].values[:, 0])
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), logged[name].steps)
    statistics = sorted(name for name in logged if name.startswith("bn."))
    by_row = [name for name in statistics if name.endswith("mean")] + [n for n in statistics if n.endswith("var")]
    for axes, name in zip(layers, by_row, strict=True):
        np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata()), np.median(logged[name].values, axis=1))


def test_the_curve_of_a_group_is_the_mean_with_its_interval(make_run: MakeRun) -> None:
    accuracies = np.array([[0.9, 0.95, 0.97], [0.91, 0.93, 0.98], [0.92, 0.95, 0.96]])
    runs = [make_run(seed, list(values)) for seed, values in enumerate(accuracies)]
    runs.append(make_run(1, [0.8, 0.81, 0.82], norm="none"))
    figure = of_groups(runs)
    assert names(figure) == ["batch_norm (n = 3)", "no_norm (n = 1)"]
    for axes, values in zip(figure.axes, (1 - accuracies, accuracies), strict=False):
        np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata()), values.mean(axis=0))
        low, high = stats.t.interval(0.95, 2, values.mean(axis=0), stats.sem(values))
        for step in range(3):
            expected = (max(low[step], 1e-12), high[step])
            assert band(axes, 0, 1000 * (step + 1)) == pytest.approx(expected)
        assert len(axes.lines) == 2


def test_the_interval_at_a_single_step_is_a_bar(make_run: MakeRun) -> None:
    """A band would have no width there."""
    values = [0.91, 0.92, 0.94]
    figure = of_groups([make_run(seed, [value]) for seed, value in enumerate(values)])
    (bar,) = (shape for shape in figure.axes[1].collections if isinstance(shape, LineCollection))
    ((bottom, top),) = bar.get_segments()
    assert bottom[0] == top[0] == 1000
    assert (bottom[1], top[1]) == pytest.approx(stats.t.interval(0.95, 2, np.mean(values), stats.sem(values)))


def test_batches_are_averaged_only_if_several_are_in_a_span(make_run: MakeRun, tmp_path: Path) -> None:
    """The caption reports the span, which is a 60th of the run."""
    for batches in (60, 120):
        run = make_run(uuid=f"{batches}")
        losses = [1 / (batch + 1) for batch in range(batches)]
        track = {"loss.train": [[64 * (batch + 1), [loss]] for batch, loss in enumerate(losses)]}
        (tmp_path / f"{batches}" / "log.jsonl").write_text(json.dumps({"track": track}) + "\n")
        figure = of_runs([run])
        means = np.reshape(losses, (60, -1)).mean(axis=1)
        np.testing.assert_allclose(np.asarray(figure.axes[2].lines[0].get_ydata()), means, rtol=1e-12)
        caption = figure._supxlabel.get_text()  # type: ignore[attr-defined]
        assert ("averaged over spans of 128 images" in caption) == (batches == 120)


def test_different_test_images_are_reported(make_run: MakeRun) -> None:
    runs = [make_run(), make_run(valid_samples=400)]
    for figure in (of_groups(runs), of_runs(runs), of_runs([*runs, *(make_run(seed) for seed in range(6, 14))])):
        caption = figure._supxlabel.get_text().replace("\n", " ")  # type: ignore[attr-defined]
        assert "different test images cannot be compared (they differ in valid_samples)." in caption


def test_statistics_are_averaged_over_the_runs(make_run: MakeRun) -> None:
    runs = [make_run(seed) for seed in range(2)]
    values = [[1.0, 2.0, 3.0], [5.0, 6.0, 10.0]]
    for run, channels in zip(runs, values, strict=True):
        (run.folder / "log.jsonl").write_text(json.dumps({"track": {"bn.a.running_mean": [[10, channels]]}}) + "\n")
    figure = of_groups(runs)
    assert figure.axes[5].lines[0].get_ydata() == pytest.approx([4.0])
    expected = np.mean([np.percentile(channels, (15, 85)) for channels in values], axis=0)
    assert band(figure.axes[5], 0, 10) == pytest.approx(tuple(expected))


def test_all_panels_have_the_same_axis_of_images(make_run: MakeRun) -> None:
    figure = of_groups([make_run(seed) for seed in range(2)])
    assert len({axes.get_xlim() for axes in figure.axes[:4]}) == 1


def test_an_axis_that_is_cut_says_so(make_run: MakeRun) -> None:
    figure = of_groups([make_run(seed, [0.97, 0.98, 0.99 + seed / 1000]) for seed in range(3)])
    assert figure.axes[1].get_ylim()[0] == pytest.approx(0.968)
    assert figure.axes[1].get_title() == "test accuracy (axis starts at 96.8%)"
    assert figure.axes[0].get_title() == "test loss (logarithmic axis)"
    wide = of_groups([make_run(seed, [0.97, 0.98, 0.95 + seed / 30], norm="none") for seed in range(2)])
    assert wide.axes[0].get_title() == "test loss (logarithmic axis; it cuts wide bands)"


LONG = {
    "train_batch_size": 12345,
    "valid_batch_size": 12345,
    "inner_iterations": 12345,
    "dtype": "float64",
    "optimizer.optimizer": "SGD",
    "optimizer.momentum": 0.123456,
    "optimizer.eps": 1.23456e-7,
    "optimizer.betas": [0.123456, 0.123456],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rates", "seeds"), [(1, 1), (2, 1), (1, 2), (4, 3), (10, 3), (10, 5), (50, 1)], ids=lambda number: str(number)
)
@pytest.mark.parametrize("settings", [{}, LONG], ids=["short", "long"])
def test_sizes(make_run: MakeRun, tmp_path: Path, rates: int, seeds: int, settings: dict[str, Any]) -> None:
    """Of 1 to 50 runs, however long their names are; each run and each group that has a label can be distinguished."""
    runs = [
        make_run(seed, **{"optimizer.learning_rate": 0.001 * (rate + 1)}, **(settings if rate else {}))
        for rate in range(rates)
        for seed in range(seeds)
    ]
    for figure in (of_groups(runs), of_runs(runs)):
        check_layout(figure, tmp_path / "figure.png")
        legend = figure.axes[4].get_legend()
        assert legend is not None
        labels = names(figure)
        assert len(set(labels)) == len(labels) <= 8
        assert len({(line.get_linestyle(), line.get_marker()) for line in legend.get_lines()}) == len(labels)
        assert len({line.get_color() for line in legend.get_lines()}) == len(labels)
        shown = {line.get_color() for line in figure.axes[0].lines}
        assert shown == {line.get_color() for line in legend.get_lines()}
        is_said = "best final test accuracy" in " ".join(figure.get_supxlabel().split())
        assert is_said == (rates > 8)


def test_of_many_groups_the_best_are_drawn(make_run: MakeRun) -> None:
    accuracies = [0.91, 0.99, 0.92, 0.93, 0.94, 0.90, 0.95, 0.96, 0.97, 0.98]
    runs = [
        make_run(5, [accuracy], **{"optimizer.learning_rate": number + 1}) for number, accuracy in enumerate(accuracies)
    ]
    figure = of_groups(runs)
    assert names(figure) == [f"lr={number} (n = 1)" for number in (2, 3, 4, 5, 7, 8, 9, 10)]
    assert "Drawn are the 8 of 10 groups with the best final test accuracy." in " ".join(figure.get_supxlabel().split())


def test_runs_that_diverged_are_thin_lines(make_run: MakeRun, tmp_path: Path) -> None:
    """They move no axis, unless there is nothing else."""
    runs = [make_run(seed, [0.98, 0.985, 0.99 + seed / 1e4]) for seed in range(3)]
    before = of_groups(runs).axes[1].get_ylim()
    runs.append(make_run(9, [0.2, 0.1], [5.0, 1e30], status="diverged"))
    figure = of_groups(runs)
    assert names(figure)[0].endswith(" (n = 3, 1 diverged)")
    mean, thin = figure.axes[1].lines
    assert thin.get_linewidth() < mean.get_linewidth()
    np.testing.assert_array_equal(thin.get_ydata(), [0.2, 0.1])
    assert figure.axes[1].get_ylim() == before
    alone = of_groups(runs[3:])
    check_layout(alone, tmp_path / "figure.png")
    assert alone.axes[1].get_ylim()[0] < 0.1


def test_every_run_is_drawn_on_demand(make_run: MakeRun, tmp_path: Path) -> None:
    """Many in the style of their group, few in a style of their own; also those that are in no mean."""
    runs = [
        make_run(seed, [0.9, 0.95, 0.96][: seed + 1], status="diverged" if seed == 4 else "completed", norm=norm)
        for norm in ("batch_norm", "none")
        for seed in range(5)
    ]
    figure = of_runs(runs)
    assert names(figure) == ["batch_norm (n = 4, 1 diverged)", "no_norm (n = 4, 1 diverged)"]
    assert len(figure.axes[1].lines) == 10
    assert len({line.get_color() for line in figure.axes[1].lines}) == 2
    few = of_runs(runs[:5])
    assert len(few.axes[1].lines) == len({line.get_color() for line in few.axes[1].lines}) == 5
    assert names(few)[4] == "0004aaaa batch_norm seed=4"


@pytest.mark.parametrize("lines", [0, 1, 5])
def test_a_run_that_has_just_started(make_run: MakeRun, tmp_path: Path, lines: int) -> None:
    run = make_run(status="killed")
    log = (run.folder / "log.jsonl").read_bytes().splitlines(keepends=True)
    (run.folder / "log.jsonl").write_bytes(b"".join(log[:lines]) + b'{"track": {"loss.tr')
    of_groups([run]).savefig(tmp_path / "figure.png")
    of_runs([run]).savefig(tmp_path / "figure.png")


def append(run: Record, track: dict[str, Any]) -> None:
    with (run.folder / "log.jsonl").open("a") as log:
        log.write(json.dumps({"time": 1e308, "track": track}) + "\n")


def test_infinite_statistics(make_run: MakeRun, tmp_path: Path) -> None:
    """They are drawn without a warning, which would be an error here."""
    run = make_run()
    append(run, {"bn.norm1.running_var": [[6001, [value for _ in range(10) for value in (float("inf"), 1.0)]]]})
    of_groups([run]).savefig(tmp_path / "figure.png")


def test_impossible_values(make_run: MakeRun, tmp_path: Path) -> None:
    """They are not drawn; they neither raise, nor warn, nor move the axes."""
    run = make_run()
    before = [axes.get_ylim() for axes in of_runs([run]).axes[:4]]
    points = [[6001 + step, [value]] for step, value in enumerate([1e308, -1e308, float("nan")])]
    append(run, {"loss.test": points, "accuracy.train": points[:2], "bn.norm1.running_var": points})
    for figure in (of_runs([run]), of_groups([run])):
        figure.savefig(tmp_path / "figure.png")
        assert [axes.get_ylim() for axes in figure.axes[:4]] == before


@pytest.mark.parametrize("values", [[0.0, -1.0], [5e-324, 9e99], [1.0, 1.0]])
def test_extreme_losses(make_run: MakeRun, tmp_path: Path, values: list[float]) -> None:
    runs = [make_run(seed, [0.5, 0.5], values) for seed in range(2)]
    of_groups(runs).savefig(tmp_path / "figure.png")


def test_names_with_dollar_signs(make_run: MakeRun, tmp_path: Path) -> None:
    """They are not formulas."""
    run = make_run(uuid=r"a$\frac{b$")
    append(run, {f"bn.{number:02}$\\frac.running_var": [[1, [1.0, 2.0]]] for number in range(30)})
    figure = of_runs([run])
    check_layout(figure, tmp_path / "figure.png")
    assert names(figure) == [r"a$\frac{ batch_norm"]
    assert len(figure.axes) == 5 + 2 * 12  # as many layers as fit
    assert "the first 12 of 33 layers" in " ".join(figure.get_supxlabel().split())


def test_names_that_matplotlib_leaves_out_or_lacks(make_run: MakeRun, tmp_path: Path) -> None:
    """Each label is beside its own run's line, and no warning is printed, which would be an error here."""
    figure = of_runs([make_run(uuid=uuid) for uuid in ("_first", "second", "漢字")])
    figures.save(figure, tmp_path / "figure.png")
    legend = figure.axes[4].get_legend()
    assert legend is not None
    assert names(figure) == [" _first batch_norm", "second batch_norm", "漢字 batch_norm"]
    for handle, line in zip(legend.get_lines(), figure.axes[0].lines, strict=True):
        assert (handle.get_color(), handle.get_linestyle()) == (line.get_color(), line.get_linestyle())
