"""What `compare` shows: the rows of its table, and the drawing of its figure.

Every run has its own colour, line style and marker, so that curves can be distinguished without colours too. The
running statistics of each run have their own row of axes, with the same scale in all rows.
"""

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from labml_bn.cli.text import duration
from labml_bn.records.record import Record, Series, short_uuids
from labml_bn.settings import KEYS, as_typed, name_of, short

#: The training loss is averaged over this many parts of the longest run.
_PARTS = 60

_COLOURS = [f"C{number}" for number in range(10)]
_LINES = ["-", "--", "-.", ":"]
_MARKERS = "osv^D<>pP*Xdh"

#: The losses that are drawn.
_LOSSES = ("loss.train", "loss.test")

#: Losses and running statistics above it are not drawn.
_LARGEST = 1e100

#: So many running statistics are drawn.
_MOST_COLUMNS = 24

_NOTHING = Series(np.zeros(0, np.int64), np.zeros((0, 1)))


class Comparison:
    """Runs to compare, in the order given. Metrics that a run has not logged yet are left out."""

    def __init__(self, runs: Sequence[Record]) -> None:
        self._runs = runs
        self._metrics = [{name: _drawable(name, of_name) for name, of_name in run.metrics().items()} for run in runs]
        self._short = short_uuids(runs)
        self._keys = [key for key in KEYS if len({str(run.settings[key]) for run in runs}) > 1]
        self._labels = [f"{self._short[run.folder]} {self._name(run)}" for run in runs]

    def _name(self, run: Record) -> str:
        """A run's name, as far as it differs from the others; its seed even if it is the default one."""
        return name_of({key: run.settings[key] for key in ("norm", *self._keys)}, also=["seed.seed"])

    def rows(self) -> list[list[str]]:
        """A heading, and a row per run: status, results, and the settings that differ between the runs."""
        shown_elsewhere = {"epochs", "data_path", "logs_path"}
        keys = [key for key in self._keys if key not in shown_elsewhere]
        rows = [["run", "status", "epochs", "final", "best", "at epoch", "time", *map(short, keys)]]
        for run, metrics in zip(self._runs, self._metrics, strict=True):
            accuracy = metrics.get("accuracy.test", _NOTHING).values[:, 0]
            chosen_by = metrics["accuracy.held_out"].values[:, 0] if "accuracy.held_out" in metrics else accuracy
            best = _best(chosen_by[: len(accuracy)])
            rows.append(
                [
                    self._short[run.folder],
                    run.status,
                    f"{len(accuracy)}/{run.settings['epochs']}",
                    f"{accuracy[-1]:.2%}" if len(accuracy) and not np.isnan(accuracy[-1]) else "-",
                    f"{accuracy[best]:.2%}" if best is not None else "-",
                    str(best + 1) if best is not None else "-",
                    duration(run.elapsed),
                    *(as_typed(run.settings[key]) for key in keys),
                ]
            )
        return rows

    def figure(self) -> Figure:
        """Loss and accuracy of all runs, then a row of running statistics for each run that has them."""
        layers = sorted({name for metrics in self._metrics for name in metrics if name.startswith("bn.")})
        drawn = f"the first {_MOST_COLUMNS} of {len(layers)}; " if len(layers) > _MOST_COLUMNS else ""
        layers = layers[:_MOST_COLUMNS]
        normalized = [number for number, metrics in enumerate(self._metrics) if any(name in metrics for name in layers)]
        columns = max(2, len(layers))
        labels = [textwrap.fill(label, 120) for label in self._labels]
        legend_columns = 2 if max(map(len, labels)) <= 60 else 1
        legend_height = 0.2 + 0.22 * ("\n".join(labels).count("\n") + 1) / legend_columns
        heights = [4.2, legend_height, *[1.6] * len(normalized)]
        figure = Figure(figsize=(max(10, 2.4 * columns), sum(heights) + 0.8), layout="constrained")
        grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)

        loss = figure.add_subplot(grid[0, : columns // 2])
        accuracy = figure.add_subplot(grid[0, columns // 2 :])
        self._draw_loss(loss)
        self._draw_accuracy(accuracy)
        legend = figure.add_subplot(grid[1, :])
        legend.set_axis_off()
        handles = loss.lines[::2]  # matplotlib leaves out those whose label begins with an underscore
        box = legend.legend(
            handles,
            [f" {label}" if label.startswith("_") else label for label in labels],
            ncols=legend_columns,
            loc="center",
            fontsize="small",
            frameon=False,
            handlelength=4,
        )
        box.set_in_layout(False)  # it has its own row: the others keep their size
        for text in box.get_texts():
            text.set_parse_math(False)  # a folder's name may have dollar signs

        first: dict[str, Axes] = {}
        for row, number in enumerate(normalized, 2):
            for column, name in enumerate(layers):
                axes = figure.add_subplot(grid[row, column], sharey=first.get(name), sharex=first.get(name))
                first.setdefault(name, axes)
                if name in self._metrics[number]:
                    _draw_band(axes, self._metrics[number][name], _COLOURS[number % len(_COLOURS)])
                if row == 2:
                    title = name.removeprefix("bn.").replace(".", "\n").replace("_", " ")
                    axes.set_title(title, fontsize="small", parse_math=False)
                if column == 0:
                    axes.set_ylabel(_row_label(self._labels[number]), fontsize="x-small", parse_math=False)
                _tidy(axes, small=True)
        if normalized:
            bands = f"training images seen ({drawn}bands: 15th to 85th percentile over channels, median)"
            figure.supxlabel(bands, fontsize=9)
        return figure

    def _draw_loss(self, axes: Axes) -> None:
        axes.set_title("loss: training (lines), test (hollow markers)", fontsize="medium")
        train = [metrics.get("loss.train", _NOTHING) for metrics in self._metrics]
        width = max((series.steps[-1] for series in train if len(series.steps)), default=1) / _PARTS
        for style, label, series, metrics in zip(_styles(), self._labels, train, self._metrics, strict=False):
            _draw_curve(axes, _averages(series, width), metrics.get("loss.test", _NOTHING), style, label)
        if any((metrics.get(name, _NOTHING).values > 0).any() for metrics in self._metrics for name in _LOSSES):
            axes.set_yscale("log")
        _tidy(axes)

    def _draw_accuracy(self, axes: Axes) -> None:
        axes.set_title("accuracy: training (lines), test (hollow markers)", fontsize="medium")
        lowest, highest = 1.0, 0.0
        for style, label, metrics in zip(_styles(), self._labels, self._metrics, strict=False):
            train, test = (metrics.get(f"accuracy.{split}", _NOTHING) for split in ("train", "test"))
            _draw_curve(axes, train, test, style, label)
            # Without the first steps, whose accuracy is so low that the axis could show little else.
            for series, start in ((train, len(train.steps) // 5), (test, 0)):
                lowest = np.nanmin([lowest, *series.values[start:, 0]])
                highest = np.nanmax([highest, *series.values[start:, 0]])
        margin = max(highest - lowest, 0.01) / 20
        axes.set_ylim(lowest - margin, min(highest, 1.0) + margin)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        _tidy(axes)


def _drawable(name: str, series: Series) -> Series:
    """A metric whose impossible values, which would make a figure of nothing else, are NaN: those are not drawn."""
    low, high = (0.0, 1.0) if name.startswith("accuracy.") else (-_LARGEST, _LARGEST)
    possible = (series.values >= low) & (series.values <= high)
    return Series(series.steps, np.where(possible, series.values, np.nan))


def _best(values: NDArray[np.float64]) -> int | None:
    """Where the largest of some values is, the first if there are several; None if there are none."""
    return None if np.isnan(values).all() else int(np.nanargmax(values))


def _styles() -> Iterator[dict[str, Any]]:
    """A colour, a line style and a marker for each run; the combination repeats only after many runs."""
    for number in itertools.count():
        yield {
            "color": _COLOURS[number % len(_COLOURS)],
            "linestyle": _LINES[number % len(_LINES)],
            "marker": _MARKERS[number % len(_MARKERS)],
            "markevery": (number % 6, 6),
        }


def _averages(series: Series, width: float) -> Series:
    """A metric averaged over spans of `width` images."""
    part = ((series.steps - 1) / width).astype(int)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    if not len(starts):
        return series
    counts = np.diff(starts, append=len(part))
    steps = np.add.reduceat(series.steps, starts) // counts
    return Series(steps, np.add.reduceat(series.values, starts) / counts[:, None])


def _draw_curve(axes: Axes, line: Series, points: Series, style: dict[str, Any], label: str) -> None:
    axes.plot(line.steps, line.values[:, 0], label=label, markersize=4, linewidth=1.2, **style)
    large = style | {"linestyle": "none", "markersize": 8, "markevery": 1, "markerfacecolor": "none"}
    axes.plot(points.steps, points.values[:, 0], **large)


def _draw_band(axes: Axes, series: Series, colour: str) -> None:
    low, median, high = series.percentiles()
    axes.fill_between(series.steps, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.plot(series.steps, median, color=colour, linewidth=1.2)


def _tidy(axes: Axes, *, small: bool = False) -> None:
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(3 if small else 6))
    if small:
        axes.tick_params(labelsize="x-small")
    else:
        axes.set_xlabel("training images seen")


def _row_label(label: str) -> str:
    """A label in a few short lines, truncated to fit beside a row."""
    lines = textwrap.wrap(label, 18, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines if len(lines) <= 5 else [*lines[:5], "..."])
