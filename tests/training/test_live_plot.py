"""Figures in a notebook: displayed once, updated in place, with texts that say what they show."""

import math
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure

from labml_bn.training import live_plot
from labml_bn.training.live_plot import LivePlot, show, smooth
from labml_bn.training.loop import Evaluation, Watcher
from notebooks import build
from tests.test_architecture import MODULES, imports

EVALUATED = Evaluation(loss=0.1, correct=97, images=100)


class Display:
    """A stand-in for IPython's display: what was shown, and what it was replaced by."""

    def __init__(self) -> None:
        self.shown: list[tuple[Figure, Any]] = []

    def display(self, figure: Figure, metadata: Any) -> None:
        self.shown.append((figure, metadata))

    update = display

    def texts(self) -> list[str]:
        return [metadata["image/png"]["alt"] for _, metadata in self.shown]


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> Display:
    display = Display()
    monkeypatch.setattr(live_plot, "DisplayHandle", lambda: display)
    monkeypatch.setattr(live_plot, "display", display.display)
    return display


def train(watcher: Watcher, losses: list[float], test: Evaluation | None = EVALUATED) -> None:
    """What the training loop reports of an epoch with a validation after every second batch."""
    for step, loss in enumerate(losses, 1):
        watcher.batch(60)
        watcher.batch(40)
        watcher.validation(1, 2 * step, loss, 1 - loss / 10, EVALUATED)
    if test:
        watcher.epoch(1, test)


def lines(plot: LivePlot) -> dict[str, Any]:
    """The points of each line and of the markers in the plot, by what the legend calls them."""
    return {str(line.get_label()): line.get_xydata() for axis in plot.figure().axes for line in axis.lines}


def test_what_is_drawn(displayed: Display) -> None:
    first = LivePlot("first", 400)
    train(first, [4.0, 3.0, 2.0, 1.0])
    second = LivePlot("second", 600, first)
    train(second, [2.0], test=None)
    drawn = lines(second)
    assert list(drawn) == ["first", "second", "first, training", "first, test", "second, training"]
    means = [4.0, 3.0, 2.0, 1.5]
    np.testing.assert_allclose(drawn["first"], [*zip((100, 200, 300, 400), means, strict=True)])
    np.testing.assert_allclose(drawn["first, training"][:, 1], [1 - mean / 10 for mean in means])
    assert drawn["first, test"].tolist() == [[400, 0.97]]
    assert drawn["second"].tolist() == [[100, 2.0]]
    legends = []
    for axis in second.figure().axes:
        assert axis.get_xlim()[1] >= 600
        legends += axis.get_legend_handles_labels()[1] if axis.get_legend() else []
    assert legends == list(drawn)


def test_the_test_accuracies_are_in_view(displayed: Display) -> None:
    low, high = LivePlot("low", 100), LivePlot("high", 100)
    train(low, [1.0], Evaluation(1.0, 60, 100))
    train(high, [1.0], Evaluation(0.1, 99, 100))
    for plot in (low, high, LivePlot("next", 100, low, high)):
        axis = plot.figure().axes[1]
        accuracies = [y for name, line in lines(plot).items() if "test" in name for _, y in line]
        assert axis.get_ylim()[0] < min(accuracies) <= max(accuracies) < axis.get_ylim()[1]


def test_more_runs_than_styles(displayed: Display) -> None:
    plots: list[LivePlot] = []
    for number in range(len(live_plot.STYLES) + 1):
        plots.append(LivePlot(f"run {number}", 100, *plots))
        train(plots[-1], [1.0])
    assert f"run {len(live_plot.STYLES)}" in lines(plots[-1])


def test_the_text_says_what_is_drawn(displayed: Display) -> None:
    first = LivePlot("first", 400)
    train(first, [4.0, 3.0, 2.0, 1.0])
    second = LivePlot("second", 400, first)
    train(second, [0.5, 0.25], test=None)
    about = "Training loss and accuracy by the number of training images seen: "
    assert displayed.texts()[0] == f"{about}first, no values yet."
    described = "first, training loss from 4 to 1.5 and test accuracy 97.00%"
    assert first.alt() == displayed.texts()[1] == f"{about}{described}."
    assert second.alt() == f"{about}{described}; second, training loss from 0.5 to 0.25."


@pytest.mark.parametrize(("interval", "shown"), [(0.0, 1 + 3 + 1), (math.inf, 1 + 1)])
def test_when_it_is_updated(displayed: Display, interval: float, shown: int) -> None:
    """At the beginning, at the end of an epoch, and at the validations after the interval."""
    train(LivePlot("a run", 300, interval=interval), [3.0, 2.0, 1.0])
    assert len(displayed.shown) == shown


def test_no_figure_is_left_open(displayed: Display) -> None:
    figure, _ = plt.subplots()
    show(figure, "An empty figure.")
    train(LivePlot("a run", 100, interval=0), [1.0])
    assert displayed.shown[0] == (figure, {"image/png": {"alt": "An empty figure."}})
    assert plt.get_fignums() == []


def test_moving_average() -> None:
    values = np.random.default_rng(0).normal(size=50)
    averages = smooth(values)
    expected = {1: 1, 3: 1, 4: 2, 8: 3, 20: 6, 35: 9, 36: 10, 50: 10}  # how many values, up to which
    for last, count in expected.items():
        assert averages[last - 1] == pytest.approx(sum(values[last - count : last]) / count)
    assert averages.shape == values.shape
    assert len(smooth(values[:0])) == 0


NOTEBOOK = """
import matplotlib.pyplot as plt
from labml_bn.training.live_plot import LivePlot, show
from labml_bn.training.loop import Evaluation
figure, _ = plt.subplots()
show(figure, "An empty figure.")
---
plot = LivePlot("a run", 100)
plot.batch(100)
plot.validation(1, 1, 0.5, 0.9, Evaluation(0.1, 97, 100))
plot.epoch(1, Evaluation(0.1, 97, 100))
---
plot.figure()
"""


def test_in_a_notebook(work: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each figure is displayed once, the plot in its last version, and their texts are in the outputs' metadata."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(work.parent / name))
    environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # building the font cache takes several seconds
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in NOTEBOOK.split("---")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    build.execute(notebook, work, env=environment)
    empty, live, last = ([dict(output) for output in cell.outputs] for cell in notebook.cells)
    assert [len(outputs) for outputs in (empty, live, last)] == [1, 1, 1]
    assert empty[0]["metadata"]["image/png"]["alt"] == "An empty figure."
    assert "test accuracy 97.00%" in live[0]["metadata"]["image/png"]["alt"]
    assert live[0]["data"]["image/png"] == last[0]["data"]["image/png"] != empty[0]["data"]["image/png"]


def test_no_module_imports_it() -> None:
    """The package does not depend on IPython."""
    assert not [module for module in MODULES if live_plot.__name__ in imports(module)]
