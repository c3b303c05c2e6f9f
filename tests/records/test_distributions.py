"""The picture of a run's distributions: it draws what was logged, in at most 1,200 pixels, whatever that is."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from labml_bn.cli.errors import UserError
from labml_bn.records import figures
from labml_bn.records.density import choose_axis, density, from_quantiles
from labml_bn.records.distributions import MOST_COLUMNS, MOST_RIDGES, figure
from labml_bn.records.record import Record, read_run
from tests.conftest import another

#: The quantities of each panel of a run with all distributions, from the top.
QUANTITIES = ["batch_mean", "batch_var", "weight", "bias", "weight_gradient", "bias_gradient"]

Values = NDArray[np.float64]


def run_with(run: Path, folder: Path, track: dict[str, Any], uuid: str = "aaaa0000", **settings: Any) -> Record:
    """A copy of a run whose log has only these metrics."""
    copy = another(run, folder, uuid, **settings)
    (copy / "log.jsonl").write_text(json.dumps({"track": track, "time": 0}) + "\n")
    return read_run(copy)


@pytest.fixture
def tracked(trained: Path, tmp_path: Path) -> Record:
    """A run of two layers, of 5 and 100 channels, with all distributions at 20 validations."""
    generator = np.random.default_rng(0)
    steps = [300 * number for number in range(1, 21)]
    track: dict[str, Any] = {}
    for number, channels in ((1, 5), (2, 100)):
        for quantity in (*QUANTITIES, "running_mean", "running_var"):
            values = generator.normal(number, 0.3, (20, channels))
            values = np.abs(values) + 0.1 if quantity.endswith("var") else values
            track[f"bn.norm{number}.{quantity}"] = [[step, of.tolist()] for step, of in zip(steps, values, strict=True)]
    for layer in ("conv1", "fc1", "fc2"):
        values = np.sort(generator.normal(0, 0.01, (20, 21)), axis=1)
        track[f"gradient.{layer}.weight"] = [[step, of.tolist()] for step, of in zip(steps, values, strict=True)]
    return run_with(trained, tmp_path, track)


def panels(drawn: Figure, columns: int) -> list[list[Axes]]:
    """The panels, row by row."""
    return [drawn.axes[first : first + columns] for first in range(0, len(drawn.axes), columns)]


def ticks(axes: Axes) -> list[list[float]]:
    """The ticks of each ridge."""
    drawn = [part for part in axes.collections if isinstance(part, LineCollection)]
    return [[float(segment[0][0]) for segment in part.get_segments()] for part in drawn]


def text(drawn: Figure) -> str:
    """All the text around the panels, on one line."""
    return " ".join(" ".join(part.get_text() for part in drawn.texts).split())


def lines(axes: Axes, colour: str) -> list[Line2D]:
    return [line for line in axes.lines if line.get_color() == colour]


def assert_density(line: Line2D, values: Values, every: Values) -> None:
    """Assert that a line is the density of some values, on the axis for all of a row, above the line's base."""
    points, heights = density(values, choose_axis(every))
    x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    np.testing.assert_allclose(x, points)
    height = y - np.round(y.min())
    np.testing.assert_allclose(height / height.max(), heights / heights.max(), atol=1e-9)


def test_what_is_drawn_is_what_was_logged(tracked: Record, tmp_path: Path) -> None:
    """Channels as ticks, areas and lines as the densities, at the epochs beside the ridges."""
    drawn = figure(tracked)
    figures.save(drawn, tmp_path / "figure.png")
    rows = panels(drawn, 3)
    metrics = tracked.metrics()
    assert [axes.get_title() for axes in rows[0]] == ["conv1, norm1", "fc1, norm2", "fc2"]
    ridges = [label.get_text() for label in rows[0][0].get_yticklabels()][::-1]
    assert 5 <= len(ridges) <= MOST_RIDGES
    chosen = np.round(np.linspace(0, 19, len(ridges))).astype(int)
    assert ridges == [f"{300 * (number + 1) / 6000:.2g}" for number in chosen]
    assert len(rows) == len(QUANTITIES) + 1
    for row, quantity in zip(rows, QUANTITIES, strict=False):
        running = metrics.get(f"bn.norm1.{quantity.replace('batch', 'running')}") if "batch" in quantity else None
        names = [f"bn.norm{layer}.{quantity}" for layer in (1, 2)]
        names += [name.replace("batch", "running") for name in names if running]
        every = np.concatenate([metrics[name].values[chosen].ravel() for name in names])
        for layer, axes in enumerate(row[:2], 1):
            values = metrics[f"bn.norm{layer}.{quantity}"].values[chosen]
            if layer == 1:
                assert ticks(axes) == values.tolist()
            else:  # too many channels for ticks
                assert ticks(axes) == []
            areas = lines(axes, "white")
            assert len(areas) == len(chosen)
            for line, of_step in zip(areas, values, strict=True):
                assert_density(line, of_step, every)
            over = [line for line in lines(axes, "#c8410b") if len(np.asarray(line.get_xdata()))]
            assert len(over) == (len(chosen) if running else 0)
            of_running = metrics[f"bn.norm{layer}.{quantity.replace('batch', 'running')}"].values[chosen]
            for line, of_step in zip(over, of_running, strict=False):
                assert_density(line, of_step, every)
        assert not row[2].axison
    for name, axes in zip(("conv1", "fc1", "fc2"), rows[-1], strict=True):
        values = [from_quantiles(one) for one in metrics[f"gradient.{name}.weight"].values[chosen]]
        every = np.concatenate(
            [
                from_quantiles(one)
                for other in ("conv1", "fc1", "fc2")
                for one in metrics[f"gradient.{other}.weight"].values[chosen]
            ]
        )
        for line, of_step in zip(lines(axes, "white"), values, strict=True):
            assert_density(line, of_step, every)
        assert sum(isinstance(part, PolyCollection) for part in axes.collections) == len(chosen)


def test_the_axes_of_a_row_are_the_same(tracked: Record) -> None:
    for row in panels(figure(tracked), 3):
        assert len({(axes.get_xlim(), axes.get_xscale()) for axes in row if axes.axison}) == 1


def test_a_run_without_distributions(trained: Path, tmp_path: Path) -> None:
    """It has running statistics, as areas with up to twelve ridges; the picture says how to get the rest."""
    drawn = figure(read_run(trained))
    figures.save(drawn, tmp_path / "figure.svg")
    assert [axes.get_title() for axes in drawn.axes[:3]] == ["norm1", "norm2", "norm3"]
    assert len(drawn.axes) == 6
    assert len(lines(drawn.axes[0], "white")) == 10  # as many validations
    assert "With track=distributions" in text(drawn)
    values = read_run(trained).metrics()["bn.norm1.running_mean"].values
    assert ticks(drawn.axes[0]) == values.tolist()


def test_nothing_to_draw(trained: Path, tmp_path: Path) -> None:
    run = run_with(trained, tmp_path, {"loss.train": [[1, [1.0]]], "bn.norm1.unknown": [[1, [1.0]]]})
    with pytest.raises(UserError, match=r"has logged no distributions: train with track=distributions$"):
        figure(run)


def test_without_normalization(trained: Path, tmp_path: Path) -> None:
    track = {f"gradient.fc{number}.weight": [[64, np.linspace(-1, 1, 21).tolist()]] for number in (1, 2)}
    drawn = figure(run_with(trained, tmp_path, track))
    assert [axes.get_title() for axes in drawn.axes] == ["fc1", "fc2"]
    assert all(ticks(axes) == [] for axes in drawn.axes)


LAYERS = [
    *("batch_mean", "batch_var", "running_mean", "running_var"),
    *("weight", "bias", "weight_gradient", "bias_gradient"),
]


@pytest.mark.parametrize("count", [1, 10, 30, 100])
def test_many_layers(trained: Path, tmp_path: Path, count: int) -> None:
    """At most eight, the first and the last among them, which a note states; nothing is outside or too high."""
    generator = np.random.default_rng(0)
    track: dict[str, Any] = {
        f"bn.norm{number}.{quantity}": [[64 * step, generator.normal(size=4).tolist()] for step in range(1, 41)]
        for number in range(1, count + 1)
        for quantity in LAYERS
    }
    track |= {f"gradient.conv{number}.weight": [[64, [0.0] * 21]] for number in range(1, count + 2)}
    long: dict[str, Any] = {"optimizer.betas": [0.123456, 0.7654321], "valid_batch_size": 123, "seed.seed": 2**31}
    run = run_with(trained, tmp_path, track, **long)
    drawn = figure(run)
    figures.save(drawn, tmp_path / "figure.png")
    width, height = drawn.bbox.width, drawn.bbox.height
    assert (width, height <= 1200) == (1000, True)
    titles = [axes.get_title() for axes in drawn.axes if axes.get_title()]
    assert len(titles) == min(count + 1, MOST_COLUMNS)
    assert (titles[0], titles[-1]) == ("conv1, norm1", f"conv{count + 1}")
    assert (f"Drawn are {MOST_COLUMNS} of {count + 1} layers, evenly spaced." in text(drawn)) == (
        count + 1 > MOST_COLUMNS
    )
    for part in (*drawn.texts, *(axes.title for axes in drawn.axes), *drawn.axes):
        box = part.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= width
        assert 0 <= box.y0 <= box.y1 <= height
    boxes = [axes.title.get_window_extent() for axes in drawn.axes[: len(titles)]]
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0


NAN, INFINITE = float("nan"), float("inf")
HOSTILE: dict[str, dict[str, Any]] = {
    "one value": {"bn.norm1.batch_mean": [[1, [1.0]]], "gradient.fc1.weight": [[1, [2.0]]]},
    "nan": {"bn.norm1.batch_mean": [[1, [NAN, NAN]], [2, [NAN, 1.0]]], "gradient.fc1.weight": [[1, [NAN] * 21]]},
    "only nan": {"bn.norm1.weight": [[1, [NAN, NAN]]]},
    "infinite": {"bn.norm1.batch_var": [[1, [INFINITE, 1.0]]], "gradient.fc1.weight": [[1, [-INFINITE, 0, INFINITE]]]},
    "huge": {"bn.norm1.batch_var": [[1, [1e308, 1e99, 1e-300, 5e-324, -1e100]]]},
    "tiny": {"bn.norm1.batch_var": [[1, [5e-324, 1e-310]]], "bn.norm1.weight": [[1, [-1e-99, 1e-99]]]},
    "dollars": {"bn.$\\frac{$.weight": [[1, [1.0, 2.0]]], "gradient.$x$.weight": [[1, [1.0, 2.0]]]},
    "characters": {"bn.漢字\u202e.weight": [[1, [1.0, 2.0]]], f"bn.{'x' * 190}.bias": [[1, [1.0, 2.0]]]},
    "steps": {"bn.norm1.weight": [[0, [1.0, 2.0]], [10**12, [1.0, 2.0]], [10**12, [3.0, 4.0]]]},
    "other steps": {"bn.norm1.weight": [[1, [1.0, 2.0]]], "bn.norm1.bias": [[2, [1.0, 2.0]]]},
    "many channels": {"bn.norm1.weight": [[1, list(range(20_000))]]},
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_whatever_a_log_contains(trained: Path, tmp_path: Path, case: str, ending: str) -> None:
    """Without a warning, which would be an error here."""
    drawn = figure(run_with(trained, tmp_path, HOSTILE[case]))
    figures.save(drawn, tmp_path / f"figure.{ending}")


def test_the_height_with_every_note(trained: Path, tmp_path: Path) -> None:
    """Each quantity of many layers has values that are NaN, and values far outside."""
    values = [*(np.random.default_rng(0).standard_cauchy(500) ** 9).tolist(), NAN]
    track = {f"bn.norm{number}.{quantity}": [[1, values]] for number in range(1, 31) for quantity in LAYERS}
    track |= {f"gradient.conv{number}.weight": [[1, values]] for number in range(1, 31)}
    drawn = figure(run_with(trained, tmp_path, track))
    assert drawn.bbox.height <= 1200
    box = drawn.texts[0].get_window_extent()
    assert 0 <= box.x0 <= box.x1 <= drawn.bbox.width


def test_what_is_not_drawn_is_said(trained: Path, tmp_path: Path) -> None:
    far = [*np.random.default_rng(0).normal(size=999).tolist(), 30.0]
    gradients = (np.random.default_rng(0).standard_cauchy(500) ** 3).tolist()
    track = {
        "bn.norm1.weight": [[1, [NAN, 1.0, 2.0, INFINITE]]],
        "bn.norm1.bias": [[1, far]],
        "bn.norm1.bias_gradient": [[1, gradients]],
        "bn.norm1.batch_var": [[1, [1e-3, 1.0, 1e3]]],
    }
    drawn = figure(run_with(trained, tmp_path, track))
    notes = text(drawn)
    assert "NaN, infinite or above 1e+100: 50.00% of weight γ." in notes
    assert "Outside the axis: 0.40% of bias β" in notes
    assert "Logarithmic axes: variance." in notes
    assert "Axes that are linear around 0, logarithmic beyond: gradient of β." in notes
