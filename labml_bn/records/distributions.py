"""The picture of one run's distributions: how each layer's statistics, parameters and gradients change in training.

A column for each layer, a row for each quantity. In each panel, a ridge is the distribution at one validation.
"""

import itertools
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from labml_bn.cli.errors import UserError
from labml_bn.records.density import Axis, Values, choose_axis, density, from_quantiles
from labml_bn.records.record import Record, Series
from labml_bn.records.results import LARGEST, possible
from labml_bn.settings import training_images

#: Of more layers so many are drawn, evenly spaced from the first to the last; and so many of more validations.
MOST_COLUMNS = 8
MOST_RIDGES = 12

#: Up to so many channels each has a tick of its own.
MOST_TICKS = 64

#: In inches, of which each has 100 pixels: the picture's width, the margins of its panels, and a line of the notes.
_WIDTH, _LEFT, _RIGHT, _TOP, _LINE = 10.0, 0.85, 0.12, 0.75, 0.16

#: A row's largest height, what of it is below its panels, that of all rows together, and a ridge's smallest one.
_ROW, _BELOW, _ALL_ROWS, _RIDGE = 2.6, 0.3, 10.05, 0.125

#: A ridge is as high as so many distances between ridges.
_OVERLAP = 1.7

_COLOURS = matplotlib.colormaps["YlGnBu"]
_RUNNING_COLOUR = "#c8410b"

_NAME = re.compile(
    r"bn\.(?P<norm>.+)\.(?P<quantity>(?:running|batch)_(?:mean|var)|(?:weight|bias)(?:_gradient)?)"
    r"|gradient\.(?P<layer>.+)\.weight"
)

_T = TypeVar("_T")

#: The metrics of a layer by their quantities.
_Layer = dict[str, Series]


@dataclass(frozen=True)
class _Row:
    """A quantity: its label, the metric that is drawn as areas, and the one that is drawn as lines over them."""

    label: str
    filled: str
    line: str = ""


_ALL = (
    _Row("mean\n(line: running)", "batch_mean", "running_mean"),
    _Row("variance\n(line: running)", "batch_var", "running_var"),
    _Row("weight γ", "weight"),
    _Row("bias β", "bias"),
    _Row("gradient of γ", "weight_gradient"),
    _Row("gradient of β", "bias_gradient"),
    _Row("gradient of the\nlayer's weights", "gradient"),
)
_RUNNING = (_Row("running mean", "running_mean"), _Row("running variance", "running_var"))


def figure(run: Record, metrics: Mapping[str, Series] | None = None) -> Figure:
    """The distributions that a run has logged; `metrics` are all that it has, if already read.

    Raises UserError if there are none.

    Values that are NaN, infinite or larger than 1e100 are left out, which the notes below the picture say.
    """
    layers = _layers(run.metrics() if metrics is None else metrics)
    logged = {quantity for layer in layers.values() for quantity in layer}
    rows = [row for row in _RUNNING if row.filled in logged]
    if logged - {row.filled for row in _RUNNING}:
        rows = [row for row in _ALL if row.filled in logged or row.line in logged]
    if not rows:
        raise UserError(f"{run.folder} has logged no distributions: train with track=distributions")
    names = _spread(list(layers), MOST_COLUMNS)
    columns = [layers[name] for name in names]
    height = min(_ROW, _ALL_ROWS / len(rows))
    every_step = {int(step) for layer in columns for series in layer.values() for step in series.steps}
    steps = _spread(sorted(every_step), min(MOST_RIDGES, int((height - _BELOW) / _RIDGE - _OVERLAP)))
    panels = [[_Panel(layer, row, steps) for layer in columns] for row in rows]
    axes = [_axis(of_row) for of_row in panels]

    notes = [*_explanations(rows), *_exceptions(rows, panels, axes)]
    if len(names) < len(layers):
        notes.append(f"Drawn are {len(names)} of {len(layers)} layers, evenly spaced.")
    if rows[0] in _RUNNING:
        notes.append("With track=distributions, batch statistics, parameters and gradients are logged and drawn too.")
    images = training_images(run.settings["train_samples"], run.settings["held_out"])
    epochs = [f"{step / images:.2g}" if step < 100 * images else f"{step / images:.0f}" for step in steps]
    title = f"{run.uuid[:8]} {run.name}: distributions over training"
    drawn, grid = _frame(title, notes, len(names), [row.label for row in rows], height)
    for row, of_row, axis in zip(grid, panels, axes, strict=True):
        for axes_of_panel, panel in zip(row, of_row, strict=True):
            panel.draw(axes_of_panel, axis)
            axes_of_panel.set_yticks(range(len(steps)), [""] * len(steps))
        row[0].set_yticklabels(epochs[::-1])
    for axes_of_panel, name in zip(grid[0], names, strict=True):
        short = textwrap.shorten(name, max(12, 130 // len(names)), placeholder="...")
        axes_of_panel.set_title(short, fontsize=9, parse_math=False)
    return drawn


def _frame(
    title: str, notes: Sequence[str], columns: int, labels: Sequence[str], height: float
) -> tuple[Figure, list[list[Axes]]]:
    """A picture with empty panels of so many columns, and a row of this height in inches for each label."""
    lines = textwrap.wrap(" ".join(notes), 165)
    bottom = 0.2 + _LINE * len(lines)
    total = _TOP + height * len(labels) + bottom
    drawn = Figure(figsize=(_WIDTH, total))
    drawn.text(0.01, 0.08 / total, "\n".join(lines), va="bottom", fontsize=8, color="0.3", parse_math=False)
    heading = "\n".join(textwrap.wrap(title, 110)[:2])
    drawn.text(0.01, 1 - 0.1 / total, heading, va="top", fontsize=10, parse_math=False)
    grid = drawn.subplots(len(labels), columns, squeeze=False)
    left, right, top = _LEFT / _WIDTH, 1 - _RIGHT / _WIDTH, 1 - _TOP / total
    space = _BELOW / (height - _BELOW)
    drawn.subplots_adjust(left, (bottom + _BELOW) / total, right, top, wspace=0.06, hspace=space)
    for row, label in zip(grid, labels, strict=True):
        middle = row[0].get_position().y0 + (height - _BELOW) / 2 / total
        drawn.text(0.012, middle, label, rotation=90, va="center", ha="left", fontsize=8.5, multialignment="center")
    drawn.text(left - 0.006, top + 0.06 / total, "epoch", fontsize=8, ha="right")
    return drawn, grid.tolist()


def _layers(metrics: Mapping[str, Series]) -> dict[str, _Layer]:
    """The layers by their names, in the order of the log. The first normalization follows the first layer, and so on.

    That is so in the networks of this project, in which only the last layer is not normalized.
    """
    norms: dict[str, _Layer] = {}
    weights: dict[str, _Layer] = {}
    for name, series in metrics.items():
        found = _NAME.fullmatch(name)
        if found and found["norm"]:
            norms.setdefault(found["norm"], {})[found["quantity"]] = possible(name, series)
        elif found:
            weights.setdefault(found["layer"], {})["gradient"] = possible(name, series)
    layers: dict[str, _Layer] = {}
    for pair in itertools.zip_longest(weights.items(), norms.items()):
        parts = [part for part in pair if part is not None]
        joined = dict(itertools.chain.from_iterable(quantities.items() for _, quantities in parts))
        layers[", ".join(name for name, _ in parts)] = joined
    return layers


def _spread(items: Sequence[_T], most: int) -> list[_T]:
    """At most so many of some items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(number)] for number in np.linspace(0, len(items) - 1, most)]


class _Panel:
    """The distributions of a layer's quantity at some steps: for each the values, none if it was not logged there."""

    def __init__(self, layer: _Layer, row: _Row, steps: Sequence[int]) -> None:
        self.filled = _values(layer.get(row.filled), steps)
        self.line = _values(layer.get(row.line), steps)
        self._ticks = row.filled != "gradient"  # quantiles are not channels
        if not self._ticks:
            self.filled = [from_quantiles(values) if len(values) else values for values in self.filled]

    def values(self) -> Values:
        """All values, also those that cannot be drawn."""
        return np.concatenate([*self.filled, *self.line])

    def draw(self, axes: Axes, axis: Axis) -> None:
        """Draw a ridge for each step, the first at the top."""
        count = len(self.filled)
        for number, (values, of_line) in enumerate(zip(self.filled, self.line, strict=True)):
            base, order = count - 1 - number, 3 * number
            (points, heights), (line_points, line_heights) = (density(_finite(v), axis) for v in (values, of_line))
            scale = _OVERLAP / max(heights.max(initial=0), line_heights.max(initial=0), np.finfo(float).tiny)
            top, line = base + heights * scale, base + line_heights * scale
            colour = _COLOURS(0.3 + 0.6 * number / max(1, count - 1))
            axes.fill_between(points, base, top, color=colour, linewidth=0, alpha=0.85, zorder=order)
            axes.plot(points, top, color="white", linewidth=0.6, zorder=order + 1)
            axes.plot(line_points, line, color=_RUNNING_COLOUR, linewidth=0.8, zorder=order + 1)
            if self._ticks and len(values) <= MOST_TICKS:
                ticks = axis.shown(values)
                axes.vlines(ticks, base, base + 0.2, color="0.1", linewidth=0.4, alpha=0.7, zorder=order + 2)
        _set_axis(axes, axis)
        axes.set_ylim(-0.15, count - 1 + _OVERLAP * 1.06)
        if not len(self.values()):
            axes.set_axis_off()


def _values(series: Series | None, steps: Sequence[int]) -> list[Values]:
    """A metric's values at each step, none if it has none there. Of several at a step, the last count."""
    if series is None:
        return [np.zeros(0) for _ in steps]
    found = dict(zip(series.steps.tolist(), series.values, strict=True))
    return [found.get(step, np.zeros(0)) for step in steps]


def _finite(values: Values) -> Values:
    return values[np.isfinite(values)]


def _axis(panels: Sequence[_Panel]) -> Axis:
    """The axis of a row."""
    values = _finite(np.concatenate([panel.values() for panel in panels]))
    return choose_axis(values) if len(values) else Axis("linear", 0.0, 1.0)


def _set_axis(axes: Axes, axis: Axis) -> None:
    """Set scale, limits and a few ticks."""
    axes.set_xscale(axis.scale, **({"linear_width": axis.width} if axis.scale == "asinh" else {}))
    axes.set_xlim(axis.low, axis.high)
    axes.set_xticks(_ticks(axis))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:.6g}")
    axes.tick_params(labelsize=7.5, length=2, pad=2)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)


def _ticks(axis: Axis) -> list[float]:
    """At most three values to label, none so close to an end that its label would reach into the next panel."""
    if axis.scale == "asinh":
        both = axis.low < 0 < axis.high
        end = min(-axis.low, axis.high) if both else max(abs(axis.low), abs(axis.high))
        power = 10 ** np.floor(np.log10(end / 5))
        found = np.array([-power, 0.0, power])
    else:
        locator = LogLocator(numticks=5) if axis.scale == "log" else MaxNLocator(4)
        found = np.asarray(locator.tick_values(axis.low, axis.high))
    low, high = axis.positions(np.array([axis.low, axis.high]))
    places = (axis.positions(found) - low) / (high - low)
    found = found[(places > 0.08) & (places < 0.92)]
    return _spread(found.tolist(), 3)


def _explanations(rows: Sequence[_Row]) -> list[str]:
    """What is drawn, in sentences."""
    quantities = {row.filled for row in rows}
    found = []
    if quantities - {"gradient"}:
        found.append(f"Each ridge is the distribution over a layer's channels (ticks: channels, up to {MOST_TICKS}).")
    if "batch_mean" in quantities:
        found.append("Batch statistics and gradients are those of the last training step before the validation.")
    if "gradient" in quantities:
        found.append("Gradients of weights are drawn from 21 quantiles.")
    found.append("Gaussian kernel density, Silverman's bandwidth; all ridges are equally high.")
    return found


def _exceptions(rows: Sequence[_Row], panels: Sequence[Sequence[_Panel]], axes: Sequence[Axis]) -> list[str]:
    """Which axes are not linear everywhere, and how much is not drawn, in sentences."""
    found = []
    for scale, words in (("log", "Logarithmic axes"), ("asinh", "Axes that are linear around 0, logarithmic beyond")):
        names = [_name(row) for row, axis in zip(rows, axes, strict=True) if axis.scale == scale]
        if names:
            found.append(f"{words}: {', '.join(names)}.")
    outside, impossible = [], []
    for row, of_row, axis in zip(rows, panels, axes, strict=True):
        values = np.concatenate([panel.values() for panel in of_row])
        finite = _finite(values)
        shown = len(axis.shown(finite))
        if shown < len(finite):
            outside.append(f"{1 - shown / len(finite):.2%} of {_name(row)}")
        if len(finite) < len(values):
            impossible.append(f"{1 - len(finite) / len(values):.2%} of {_name(row)}")
    if outside:
        found.append(f"Outside the axis: {', '.join(outside)}.")
    if impossible:
        found.append(f"NaN, infinite or above {LARGEST:.0e}: {', '.join(impossible)}.")
    return found


def _name(row: _Row) -> str:
    """A quantity within a sentence."""
    return row.label.removesuffix("\n(line: running)").replace("\n", " ")
