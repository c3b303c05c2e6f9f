"""Densities of values on an axis: linear, logarithmic, or linear around 0 and logarithmic far from it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

#: An axis on which the largest value is more than so many times the smallest, or the median of the magnitudes, is not
#: linear. On one whose values differ by less than this part of them, they are drawn as if they were equal.
_WIDE = 100.0
_EQUAL = 1e-6

#: Smaller magnitudes are not told from 0.
_SMALLEST = 1e-100

#: The axis is cut if the values but the outermost 1 % need less than this share of it.
_SHARE = 0.5

#: The smallest standard deviation of the kernel, as a share of the axis: fewer pixels than this could not be seen.
_NARROWEST = 1 / 120

#: Values are counted in so many bins a bandwidth.
_BINS = 20


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high` in one of matplotlib's scales: linear, log or asinh.

    The last one is `width` · asinh(x / `width`): linear below `width`, logarithmic above, for both signs. `positions`
    are those on the axis, on which densities are computed, so that an area is a share of the values.
    """

    scale: str
    low: float
    high: float
    width: float = 1.0

    def positions(self, values: Values) -> Values:
        """Where values are on the axis. With a logarithmic scale they must be positive."""
        if self.scale == "log":
            return np.log10(values)
        if self.scale == "asinh":
            return np.asarray(self.width * np.arcsinh(values / self.width))
        return values

    def values(self, positions: Values) -> Values:
        """The values at these positions."""
        with np.errstate(over="ignore"):
            if self.scale == "log":
                return np.asarray(10.0**positions)
            if self.scale == "asinh":
                return np.asarray(self.width * np.sinh(positions / self.width))
        return positions

    def shown(self, values: Values) -> Values:
        """Those of some values that are within the axis."""
        return values[(values >= self.low) & (values <= self.high)]


def choose_axis(values: Values) -> Axis:
    """An axis for finite values, at least one. It is cut if a few are so far out that the others would fill little."""
    sizes = np.abs(values[np.abs(values) > _SMALLEST])
    scale, width = "linear", 1.0
    if values.min() > _SMALLEST and values.max() > _WIDE * values.min():
        scale = "log"
    elif len(sizes) and sizes.max() > _WIDE * np.median(sizes):
        scale, width = "asinh", max(float(np.median(sizes)), 1e-12 * float(sizes.max()))
    everything = Axis(scale, -np.inf, np.inf, width)
    positions = everything.positions(values)
    low, high = positions.min(), positions.max()
    inner_low, inner_high = np.quantile(positions, [0.005, 0.995])
    if inner_high - inner_low < _SHARE * (high - low) and inner_low < inner_high:
        low, high = inner_low, inner_high
    size = max(abs(low), abs(high))
    margin = 0.06 * (high - low if high - low > _EQUAL * size else size) if size > _SMALLEST else 1.0
    first, last = everything.values(np.array([low - margin, high + margin]))
    return Axis(scale, float(first), float(last), width)


def density(values: Values, axis: Axis) -> tuple[Values, Values]:
    """The Gaussian kernel density of values: points on the axis [n], and the density per position there [n].

    The bandwidth is Silverman's, 0.9 · min(standard deviation, interquartile range / 1.34) · n^(-1/5), though not too
    narrow to be seen. The area is the share of the values that is within the axis. Empty if none is.
    """
    shown = axis.positions(axis.shown(values))
    if not len(shown):
        return np.zeros(0), np.zeros(0)
    first, last = axis.positions(np.array([axis.low, axis.high]))
    quarter, three_quarters = np.quantile(shown, [0.25, 0.75])
    spread = min(shown.std(), (three_quarters - quarter) / 1.34) or shown.std()
    bandwidth = max(0.9 * spread * len(shown) ** -0.2, _NARROWEST * (last - first))
    width, reach = bandwidth / _BINS, 4 * _BINS
    start, bins = shown.min() - (reach + 1) * width, int(np.ptp(shown) / width) + 2 * reach + 3
    counts = np.bincount(((shown - start) / width).astype(int), minlength=bins)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _BINS) ** 2)
    heights = np.convolve(counts, kernel / kernel.sum(), mode="same") / (len(values) * width)
    return axis.values(start + (np.arange(bins) + 0.5) * width), heights


def from_quantiles(quantiles: Values, count: int = 400) -> Values:
    """So many values with these evenly spaced quantiles, the first the smallest value, the last the largest."""
    return np.interp((np.arange(count) + 0.5) / count, np.linspace(0, 1, len(quantiles)), quantiles)
