"""The picture of `compare`: the curves of the groups' means, or of each run, and the running statistics below them.

Test and training metrics are in panels of their own, which share the axis of the training images seen. Every group has
a colour, a line style and a marker, so that the curves can be distinguished without colours too.
"""

import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from labml_bn.records.comparison.estimates import mean_curve
from labml_bn.records.comparison.groups import about_test_images, differing
from labml_bn.records.comparison.measured import Measured, Metrics, at_common_steps
from labml_bn.records.record import Record, Series, short_uuids
from labml_bn.settings import KEYS, name_of

#: The picture's size in inches, of 100 pixels each. It can be lower than that.
_WIDTH, _HEIGHT = 11.0, 12.0

#: So many groups, or runs with a label of their own, are drawn: more could not be distinguished.
MOST_CURVES = 8

#: The running statistics are those of so many groups, in so many rows of columns with a layer each.
_MOST_BANDS, _BLOCKS, _COLUMNS = 3, 2, 6

#: The training metrics are averaged over this many parts of the longest run.
_PARTS = 60

#: Colours that people with any colour vision can distinguish (Okabe and Ito, without yellow), styles and markers.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#7a7a7a")
_LINES = ("-", "--", "-.", ":")
_MARKERS = "osv^D<>P"

_PANELS = ("loss.test", "accuracy.test", "loss.train", "accuracy.train")
_STATISTIC = re.compile(r"bn\.(.+)\.(running_mean|running_var)", re.DOTALL)

#: Losses, and ends of intervals, are at least that on a logarithmic axis, which has no zero.
_LOWEST = 1e-12

#: The first part of a run (a fifth), whose training accuracy is so low that the axis could show little else.
_START = 5

#: An interval that reaches further than this factor from the mean's loss or error does not determine the axis.
_WIDE = 2


@dataclass(frozen=True)
class _Curve:
    """What is drawn in one style: the mean of some runs, or each of them; and runs that diverged as thin lines."""

    label: str
    runs: Sequence[Metrics]
    is_mean: bool
    diverged: Sequence[Metrics] = ()

    def lines(self, name: str, width: float) -> Iterator[tuple[NDArray[Any], ...]]:
        """The lines of a metric: steps, values, and the ends of the interval. `width` is that of averaged parts."""
        found = [_averages(metrics[name], width) for metrics in self.runs if name in metrics]
        if self.is_mean and found:
            yield found[0].steps, *mean_curve(np.array([series.values[:, 0] for series in found]))
        else:
            for series in found:
                values = series.values[:, 0]
                yield series.steps, values, values, values


def figure_of_groups(groups: Sequence[Measured]) -> Figure:
    """The mean of each group with its 95 % interval; of more than `MOST_CURVES` groups, those that end best."""
    drawn, notes = best_groups(groups)
    curves = [
        _Curve(
            f"{group.group.name} ({group.n})",
            group.common,
            is_mean=True,
            diverged=[group.logged[run.folder] for run in group.group.diverged],
        )
        for group in drawn
    ]
    caption = "Lines: means over the seeds. Bands: 95 % interval of the mean (Student's t); n = 1 has none."
    if any(curve.diverged for curve in curves):
        caption += " Thin lines: runs that diverged, not in the means."
    return _figure(curves, [caption, *notes, *about_test_images([group.group.all_runs[0] for group in drawn])])


def figure_of_runs(groups: Sequence[Measured], runs: Sequence[Record]) -> Figure:
    """Each run: up to `MOST_CURVES` in a style of their own; otherwise thin lines in the style of their group."""
    if len(runs) <= MOST_CURVES:
        logged = {folder: metrics for group in groups for folder, metrics in group.logged.items()}
        labels = _labels(runs)
        curves = [_Curve(labels[number], [logged[run.folder]], False) for number, run in enumerate(runs)]
        return _figure(curves, about_test_images(runs))
    drawn, notes = best_groups(groups)
    curves = [_Curve(f"{group.group.name} ({group.n})", list(group.logged.values()), False) for group in drawn]
    captions = ["Each line is a run, in the colour of its group.", *notes]
    return _figure(curves, [*captions, *about_test_images([group.group.all_runs[0] for group in drawn])])


def best_groups(groups: Sequence[Measured]) -> tuple[list[Measured], list[str]]:
    """Up to `MOST_CURVES` groups in their order, those with the best final test accuracy; and a line that says so."""
    if len(groups) <= MOST_CURVES:
        return list(groups), []
    accuracy = np.array([group.estimate("accuracy.test").mean for group in groups])
    best = np.argsort(np.where(np.isnan(accuracy), -1, accuracy), kind="stable")[::-1][:MOST_CURVES]
    note = f"Drawn are the {MOST_CURVES} of {len(groups)} groups with the best final test accuracy."
    return [groups[number] for number in sorted(best)], [note]


def _labels(runs: Sequence[Record]) -> list[str]:
    """The beginning of each run's uuid, and its name as far as it differs; its seed even if it is the default one."""
    uuids = short_uuids(runs)
    keys = differing(runs, KEYS)
    names = [name_of({key: run.settings[key] for key in ("norm", *keys)}, also=["seed.seed"]) for run in runs]
    return [f"{uuids[run.folder]} {run.given_name or name}" for run, name in zip(runs, names, strict=True)]


def _figure(curves: Sequence[_Curve], captions: list[str]) -> Figure:
    layers = _layers(curves)
    banded = [number for number, curve in enumerate(curves) if any(_has(curve, layer) for layer in layers)]
    shown = layers[: _BLOCKS * _COLUMNS]
    blocks = [shown[start : start + _COLUMNS] for start in range(0, len(shown), _COLUMNS)]

    labels = [curve.label for curve in curves]
    height_of_legend = legend_height(labels)
    statistics_height = 1.6 if len(blocks) < 2 else 1.25
    below = 2 * len(blocks) * statistics_height
    width = round(_part_width(curves))
    captions = [
        *captions,
        *([f"Training loss and accuracy are averaged over spans of {width:,} images."] if width else []),
    ]
    if banded:
        captions.append(_about_statistics(curves, layers, banded))
    captions = textwrap.wrap(" ".join(captions), 145)
    caption_height = 0.25 + 0.17 * len(captions)
    panel = min(2.9, (_HEIGHT - height_of_legend - below - caption_height) / 2)
    heights = [panel, panel, height_of_legend, *[statistics_height] * 2 * len(blocks)]

    figure = Figure(figsize=(_WIDTH, sum(heights) + caption_height), dpi=100, layout="constrained")
    grid = figure.add_gridspec(len(heights), 12, height_ratios=heights)
    first: Axes | None = None
    for number, name in enumerate(_PANELS):
        row, column = divmod(number, 2)
        first = figure.add_subplot(grid[row, 6 * column : 6 * column + 6], sharex=first)
        _draw_panel(first, curves, name)
    draw_legend(figure.add_subplot(grid[2, :]), labels)
    for block, of_block in enumerate(blocks):
        _draw_statistics(figure, grid, 3 + 2 * block, of_block, [(n, curves[n]) for n in banded[:_MOST_BANDS]])
    figure.supxlabel("\n".join(captions), fontsize=9, parse_math=False)
    return figure


def style(number: int) -> dict[str, Any]:
    """The colour, line style and marker of a curve, by its number."""
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _LINES[number % len(_LINES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def _draw_panel(axes: Axes, curves: Sequence[_Curve], name: str) -> None:
    """A metric of all curves, over the training images seen."""
    kind, _, images = name.partition(".")
    width = _part_width(curves) if images == "train" else 0
    drawn: list[NDArray[Any]] = []
    thin: list[NDArray[Any]] = []
    for number, curve in enumerate(curves):
        look = style(number)
        is_thin = not curve.is_mean and len(curve.runs) > 1
        for steps, values, low, high in curve.lines(name, width):
            every = (number % 6, 6) if len(steps) > 20 else None
            axes.plot(steps, values, markersize=4, linewidth=0.8 if is_thin else 1.5, markevery=every, **look)
            if curve.is_mean:
                ends = np.maximum(low, _LOWEST), high
                axes.fill_between(steps, *ends, color=look["color"], alpha=0.2, linewidth=0, zorder=1)
                if len(steps) == 1:  # a band would have no width
                    axes.vlines(steps, *ends, color=look["color"], linewidth=1.5)
            start = len(steps) // _START if name == "accuracy.train" else 0
            drawn.append(np.array([values, low, high])[:, start:])
        for metrics in curve.diverged:
            if name in metrics:
                series = _averages(metrics[name], width)
                axes.plot(series.steps, series.values[:, 0], linewidth=0.6, color=look["color"], zorder=1)
                thin.append(np.array([series.values[:, 0]] * 3))
    title = f"{'test' if images == 'test' else 'training'} {kind}"
    lines = np.concatenate(drawn or thin or [np.full((3, 1), np.nan)], axis=1)
    title += _limit_loss(axes, lines) if kind == "loss" else _limit_accuracy(axes, lines)
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.tick_params(labelbottom=images != "test")
    if images != "test":
        axes.set_xlabel("training images seen")


def _limit_loss(axes: Axes, lines: NDArray[Any]) -> str:
    """A logarithmic axis that shows all means, and intervals up to a factor of two; what the title says of it.

    `lines` are the means and the ends of their intervals, [3, n], or NaN.
    """
    values, low, high = lines[:, lines[0] > _LOWEST]
    if not len(values):
        return ""
    axes.set_yscale("log")
    bottom = float(np.nanmin([values, np.maximum(low, values / _WIDE)]))
    top = float(np.nanmax([values, np.minimum(high, values * _WIDE)]))
    margin = 1.05 * (top / bottom) ** 0.05
    bottom, top = bottom / margin, top * margin
    axes.set_ylim(bottom, top)
    subs = (1.0, 2.0, 3.0, 5.0, 7.0) if top < 50 * bottom else (1.0, 2.0, 5.0) if top < 1e3 * bottom else (1.0,)
    axes.yaxis.set_major_locator(MaxNLocator(5) if top < 6 * bottom else LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    axes.yaxis.set_minor_locator(NullLocator())
    is_cut = (low < bottom).any() or (high > top).any()
    return " (logarithmic axis; it cuts wide bands)" if is_cut else " (logarithmic axis)"


def _limit_accuracy(axes: Axes, lines: NDArray[Any]) -> str:
    """An axis that shows the means, and intervals up to twice their errors; what the title says of it."""
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    values, low, high = lines[:, ~np.isnan(lines[0])]
    if not len(values):
        axes.set_ylim(0, 1)
        return ""
    lowest = float(np.nanmin([values, np.maximum(low, 1 - _WIDE * (1 - values))]))
    highest = float(np.nanmax([values, np.minimum(high, 1.0)]))
    margin = max(highest - lowest, 0.004) / 15
    start = max(0.0, np.floor((lowest - margin) * 1000) / 1000)
    axes.set_ylim(start, highest + margin)
    return f" (axis starts at {start:.1%})" if start > 0 else ""


def _part_width(curves: Sequence[_Curve]) -> float:
    """The images in a part over which training losses are averaged; 0 if no run has more than one in a part."""
    steps = [metrics["loss.train"].steps for curve in curves for metrics in curve.runs if "loss.train" in metrics]
    if all(len(of_run) <= _PARTS for of_run in steps):
        return 0.0
    return float(max(of_run[-1] for of_run in steps)) / _PARTS


def _averages(series: Series, width: float) -> Series:
    """A metric averaged over spans of `width` images; unchanged for 0."""
    if width == 0:
        return series
    part = ((series.steps - 1) / width).astype(int)
    starts = np.flatnonzero(np.diff(part, prepend=part[0] - 1))
    counts = np.diff(starts, append=len(part))
    steps = np.add.reduceat(series.steps, starts) // counts
    return Series(steps, np.add.reduceat(series.values, starts) / counts[:, None])


def _legend(labels: Sequence[str]) -> tuple[list[str], int]:
    """The labels as they are shown, long ones on several lines, and in how many columns they are."""
    columns = 2 if max(map(len, labels)) <= 60 else 1
    return [textwrap.fill(textwrap.shorten(label, 200, placeholder=" ..."), 130) for label in labels], columns


def legend_height(labels: Sequence[str]) -> float:
    """The height of the legend of curves with these labels, in inches."""
    shown, columns = _legend(labels)
    return 0.2 + 0.21 * -(-sum(label.count("\n") + 1 for label in shown) // columns)


def draw_legend(axes: Axes, labels: Sequence[str]) -> None:
    """Draw only the legend of curves with these labels, numbered from 0, as `style` is."""
    shown, columns = _legend(labels)
    axes.set_axis_off()
    box = axes.legend(
        [Line2D([], [], linewidth=1.5, markersize=5, **style(number)) for number in range(len(labels))],
        [f" {label}" if label.startswith("_") else label for label in shown],  # matplotlib leaves out such labels
        ncols=columns,
        loc="center",
        fontsize="medium" if columns == 2 else "small",
        frameon=False,
        handlelength=4,
    )
    box.set_in_layout(False)  # it has its own row: the others keep their size
    for text in box.get_texts():
        text.set_parse_math(False)  # a name may have dollar signs


def _layers(curves: Sequence[_Curve]) -> list[str]:
    """The layers with running statistics, by name."""
    names = itertools.chain.from_iterable(metrics for curve in curves for metrics in curve.runs)
    return sorted({match[1] for match in map(_STATISTIC.fullmatch, names) if match})


def _has(curve: _Curve, layer: str) -> bool:
    return any(f"bn.{layer}.{name}" in metrics for metrics in curve.runs for name in ("running_mean", "running_var"))


def _about_statistics(curves: Sequence[_Curve], layers: Sequence[str], banded: Sequence[int]) -> str:
    text = "Running statistics: the 15th to 85th percentile over a layer's channels and the median"
    if any(len(curves[number].runs) > 1 for number in banded):
        text += ", averaged over the runs"
    if len(layers) > _BLOCKS * _COLUMNS:
        text += f"; the first {_BLOCKS * _COLUMNS} of {len(layers)} layers"
    if len(banded) > _MOST_BANDS:
        text += f"; the first {_MOST_BANDS} of {len(banded)} curves with normalization"
    return f"{text}."


def _draw_statistics(
    figure: Figure, grid: GridSpec, row: int, layers: Sequence[str], curves: Sequence[tuple[int, _Curve]]
) -> None:
    """Two rows of axes with a column a layer: the bands of its running mean, and of its running variance."""
    span = 12 // max(2, len(layers)) if len(layers) in (1, 2, 3, 4, 6) else 2
    for line, statistic in enumerate(("running_mean", "running_var")):
        for column, layer in enumerate(layers):
            axes = figure.add_subplot(grid[row + line, span * column : span * (column + 1)])
            for number, curve in curves:
                _draw_band(axes, curve, f"bn.{layer}.{statistic}", number)
            if line == 0:
                axes.set_title(textwrap.shorten(layer, 30), fontsize="small", parse_math=False)
            if column == 0:
                axes.set_ylabel(statistic.replace("_", " ").replace("var", "variance"), fontsize="small")
            axes.grid(alpha=0.3)
            axes.tick_params(labelsize="small", labelbottom=line == 1)
            axes.xaxis.set_major_formatter(EngFormatter())
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.yaxis.set_major_locator(MaxNLocator(4))


def _draw_band(axes: Axes, curve: _Curve, name: str, number: int) -> None:
    """The percentiles over the channels, averaged over the runs that have them."""
    found = at_common_steps([{name: metrics[name]} for metrics in curve.runs if name in metrics])
    if not found or name not in found[0]:
        return
    with np.errstate(invalid="ignore"):
        low, median, high = np.mean([metrics[name].percentiles() for metrics in found], axis=0)
    look = style(number)
    axes.fill_between(found[0][name].steps, low, high, color=look["color"], alpha=0.18, linewidth=0)
    axes.plot(found[0][name].steps, median, linewidth=1.2, color=look["color"], linestyle=look["linestyle"])
