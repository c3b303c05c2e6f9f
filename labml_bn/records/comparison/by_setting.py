"""The picture of `compare --by KEY`: the final test accuracy over the values of a setting.

Groups that differ in this setting only are joined by a line, with the 95 % interval of each mean as a bar. Numbers are
on an axis, logarithmic for learning rates and for values that differ by a factor of ten; other values side by side.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation

from labml_bn.cli.errors import UsageError
from labml_bn.records.comparison.curves import MOST_CURVES, draw_legend, legend_height, style
from labml_bn.records.comparison.estimates import Estimate
from labml_bn.records.comparison.groups import WITHIN, about_test_images, differing, name_by
from labml_bn.records.comparison.measured import Measured
from labml_bn.records.record import Record
from labml_bn.settings import KEYS, as_typed
from labml_bn.settings import key_of as setting_of

_ACCURACY = "accuracy.test"

#: A panel of its own shows the accuracies whose error is at most so many times the smallest.
_CLOSE = 5

#: Curves are so many points beside each other, so that their bars do not hide each other.
_BESIDE = 3.0

#: The names of so many values fit beside each other; those of more are turned.
_MOST_UPRIGHT = 10

#: One curve: the values of the setting, each with its group.
_Curve = Sequence[tuple[Any, Measured]]


def key_of(name: str, runs: Sequence[Record]) -> str:
    """The key that is written as `name`, also in its short form.

    Raises UsageError, in one line, if there is none, if the runs do not differ in it, or if the means are over it.
    """
    key = setting_of(name)
    varying = differing(runs)
    known = f"the runs differ in {', '.join(varying)}" if varying else "the runs do not differ in any setting"
    if key is None:
        raise UsageError(f"--by {name}: there is no such setting; {known}")
    if key in WITHIN:
        raise UsageError(f"--by {key}: runs that differ only in it are averaged; --runs shows each; {known}")
    if key not in varying:
        raise UsageError(f"--by {key}: it is {as_typed(runs[0].settings[key])} in all runs; {known}")
    return key


def figure(groups: Sequence[Measured], key: str) -> Figure:
    """The final test accuracy of each group over its value of `key`."""
    curves = _curves(groups, key)
    captions = ["Means over the seeds with their 95 % intervals (Student's t); n = 1 has none."]
    if len(curves) > MOST_CURVES:
        captions.append(f"Drawn are the {MOST_CURVES} of {len(curves)} curves with the best accuracy.")
        best = sorted(curves, key=lambda label: _best(curves[label]), reverse=True)[:MOST_CURVES]
        curves = {label: curve for label, curve in curves.items() if label in best}
    if any(group.estimate(_ACCURACY).n == 0 for curve in curves.values() for _, group in curve):
        captions.append("Hollow, at the lower edge: groups without an accuracy; all runs diverged, or none was tested.")
    captions += about_test_images([group.group.all_runs[0] for curve in curves.values() for _, group in curve])

    places, names = _places([group.group.settings[key] for group in groups], key)
    starts = _starts(curves)
    labels = list(curves)
    caption = "\n".join(line for text in captions for line in textwrap.wrap(text, 140))
    heights = [4.2 if len(starts) == 1 else 3.4] * len(starts) + [legend_height(labels)] * (len(curves) > 1)
    size = (11, sum(heights) + 0.3 + 0.2 * len(captions))
    drawn = Figure(figsize=size, dpi=100, layout="constrained")
    grid = drawn.add_gridspec(len(heights), 1, height_ratios=heights)
    first: Axes | None = None
    for row, start in enumerate(starts):
        first = drawn.add_subplot(grid[row], sharex=first)
        for number, curve in enumerate(curves.values()):
            away = _BESIDE * (number - (len(curves) - 1) / 2)
            _draw(first, curve, places, number, away)
        first.set_ylim(*_limits(curves, start))
        _finish(first, key, places, names)
        first.tick_params(labelbottom=row == len(starts) - 1)
    assert first is not None
    first.set_xlabel(key)
    if len(curves) > 1:
        draw_legend(drawn.add_subplot(grid[-1]), labels)
    drawn.supxlabel(caption, fontsize=9)
    return drawn


def _curves(groups: Sequence[Measured], key: str) -> dict[str, list[tuple[Any, Measured]]]:
    """The groups of each combination of the other settings, by what it is called."""
    keys = [other for other in differing([group.group.all_runs[0] for group in groups]) if other != key]
    found: dict[str, list[tuple[Any, Measured]]] = {}
    for group in groups:
        found.setdefault(name_by(keys, group.group.settings), []).append((group.group.settings[key], group))
    return found


def _best(curve: _Curve) -> float:
    return float(np.nanmax([-1.0, *(group.estimate(_ACCURACY).mean for _, group in curve)]))


def _places(values: Sequence[Any], key: str) -> tuple[dict[str, float], list[str]]:
    """Where each value is on the axis, and the names of values that are not numbers, which are side by side."""
    if KEYS[key].type in (int, float):
        return {str(value): float(value) for value in sorted(set(values))}, []
    names = list(dict.fromkeys(map(str, values)))
    return {name: float(place) for place, name in enumerate(names)}, [
        as_typed(next(value for value in values if str(value) == name)) for name in names
    ]


def _starts(curves: Mapping[str, _Curve]) -> list[float | None]:
    """Where the accuracy axis of each panel starts: all accuracies, and if that hides the best ones, these only."""
    means = [group.estimate(_ACCURACY).mean for curve in curves.values() for _, group in curve]
    means = [mean for mean in means if not np.isnan(mean)]
    if not means:
        return [None]
    close = [mean for mean in means if 1 - mean <= max(_CLOSE * (1 - max(means)), 0.005)]
    if len(close) == len(means):
        return [None]
    margin = max(max(close) - min(close), 0.002) / 5
    return [None, float(np.floor(1000 * (min(close) - margin)) / 1000)]


def _limits(curves: Mapping[str, _Curve], start: float | None) -> tuple[float, float]:
    """The ends of the accuracy axis: all intervals, or from `start` on."""
    found = [group.estimate(_ACCURACY) for curve in curves.values() for _, group in curve]
    ends = np.array([[each.mean, each.low, each.high] for each in found if each.n]).ravel()
    ends = np.clip(ends[~np.isnan(ends)], start or 0.0, 1.0)
    if not len(ends):
        return 0.0, 1.0
    margin = max(ends.max() - ends.min(), 0.002) / 15
    low = start if start is not None else np.floor(1000 * (ends.min() - margin)) / 1000
    return max(0.0, float(low)), float(ends.max() + margin)


def _draw(axes: Axes, curve: _Curve, places: Mapping[str, float], number: int, away: float) -> None:
    shown = sorted(((places[str(value)], group.estimate(_ACCURACY)) for value, group in curve), key=lambda at: at[0])
    figure = axes.get_figure()
    assert figure is not None
    shift = ScaledTranslation(away / 72, 0, figure.dpi_scale_trans)
    known: list[tuple[float, Estimate]] = [(place, found) for place, found in shown if found.n]
    x = [place for place, _ in known]
    y = [found.mean for _, found in known]
    half = [0.0 if np.isnan(found.half_width) else found.half_width for _, found in known]
    axes.errorbar(
        x,
        y,
        half,
        transform=axes.transData + shift,
        capsize=3,
        markersize=6,
        linewidth=1.5,
        elinewidth=1,
        **style(number),
    )
    unknown = [place for place, found in shown if not found.n]
    at_edge = axes.get_xaxis_transform() + shift
    look = style(number) | {"linestyle": "none", "markersize": 8, "markerfacecolor": "none", "clip_on": False}
    axes.plot(unknown, [0.0] * len(unknown), transform=at_edge, **look)
    for artist in (*axes.lines, *axes.collections):
        artist.set_in_layout(False)  # what is outside the panel takes no space


def _finish(axes: Axes, key: str, places: Mapping[str, float], names: Sequence[str]) -> None:
    """The axes' scales, ticks and texts."""
    x = list(places.values())
    if names:
        is_turned = len(names) > _MOST_UPRIGHT
        shown = [textwrap.shorten(name, 90, placeholder="...") for name in names]
        shown = [textwrap.fill(name, 30 if is_turned else 120 // len(names)) for name in shown]
        axes.set_xticks(x, shown, rotation=90 if is_turned else 0, parse_math=False)
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif min(x) > 0 and (key == "optimizer.learning_rate" or max(x) >= 10 * min(x)):
        axes.set_xscale("log")
        margin = (max(x) / min(x)) ** 0.06
        axes.set_xlim(min(x) / margin, max(x) * margin)
    else:
        margin = 0.06 * (max(x) - min(x))
        axes.set_xlim(min(x) - margin, max(x) + margin)
    if not names and len(x) <= 8:
        axes.set_xticks(x, [as_typed(value) for value in x])
        axes.xaxis.set_minor_locator(NullLocator())
    title = "final test accuracy"
    low, _ = axes.get_ylim()
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    axes.set_title(f"{title} (axis starts at {low:.1%})" if low > 0 else title, fontsize="medium")
    axes.grid(alpha=0.3)
