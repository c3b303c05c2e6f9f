"""Means and differences of means with their 95 % intervals, by Student's t.

The mean of n values with the standard deviation s has the interval mean ± t·s/√n. `scipy.stats` computes the same, but
takes about a second to import.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

#: The confidence of every interval.
CONFIDENCE = 0.95

#: Values that differ by less, relative to the largest of them, are equal: accuracies are multiples of 0.0001, and their
#: differences would otherwise vary by rounding errors.
_EQUAL = 1e-12


def t_quantile(df: float) -> float:
    """The half-width of the 95 % interval in standard errors, for so many degrees of freedom; NaN below 1."""
    return float(stdtrit(df, (1 + CONFIDENCE) / 2)) if df >= 1 else float("nan")


@dataclass(frozen=True)
class Estimate:
    """The mean of n values and its interval. The mean of no values is NaN, and so is the interval of fewer than two."""

    n: int
    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval, as in 0.992 ± 0.001; NaN if there is none."""
        return (self.high - self.low) / 2


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of the finite ones of some values, with its interval."""
    finite = [value for value in values if np.isfinite(value)]
    (mean,), (low,), (high,) = mean_curve(np.reshape(np.array(finite, np.float64), (-1, 1)))
    return Estimate(len(finite), mean, low, high)


def mean_curve(values: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The means over the runs and their intervals' ends, [steps] each, of values [runs, steps] without their NaNs."""
    known = ~np.isnan(values)
    n = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, values, 0).sum(axis=0) / n
        half_width = np.array([t_quantile(count - 1) for count in n]) * _deviation(values, known, mean) / np.sqrt(n)
    return mean, mean - half_width, mean + half_width


def _deviation(values: NDArray[np.float64], known: NDArray[np.bool_], mean: NDArray[Any]) -> NDArray[Any]:
    """The standard deviation over the runs [steps], 0 if the values are equal but for rounding errors."""
    away = np.where(known, values - mean, 0)
    largest = np.max(np.abs(np.where(known, values, 0)), axis=0, initial=0)
    deviation = np.sqrt(np.sum(away**2, axis=0) / (known.sum(axis=0) - 1))
    return np.where(np.max(np.abs(away), axis=0, initial=0) <= _EQUAL * largest, 0, deviation)


@dataclass(frozen=True)
class Difference:
    """The difference of two groups' means and its interval.

    If `paired`, it is the mean difference of the runs with the same seed, of which there are `n[0]` (= `n[1]`).
    Otherwise Welch's interval, of `n` runs of each group. The ends are NaN if a group has fewer than two.
    """

    mean: float
    low: float
    high: float
    n: tuple[int, int]
    paired: bool

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the interval excludes zero; None if there is no interval, or one without a width."""
        return (self.low > 0 or self.high < 0) if self.high > self.low else None


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """One group's mean less another's, from the values by seed; None if a group has no finite value.

    Paired if more than half of each group's seeds are in both, and at least two: what runs of the same seed have in
    common, such as the order of the images, cancels out. Then only these seeds count; if they were few, the interval
    would be wider than that of all runs.
    """
    one, other = ({seed: value for seed, value in group.items() if np.isfinite(value)} for group in (one, other))
    if not one or not other:
        return None
    common = sorted(one.keys() & other.keys())
    if len(common) > max(1, max(len(one), len(other)) / 2) or len(common) == len(one) == len(other):
        pairs = np.array([[one[seed], other[seed]] for seed in common])
        away = pairs[:, 0] - pairs[:, 1]
        if np.ptp(away) <= _EQUAL * np.abs(pairs).max():
            away[:] = away.mean()
        paired = estimate(list(away))
        return Difference(paired.mean, paired.low, paired.high, (len(common), len(common)), True)
    first, second = np.array(list(one.values())), np.array(list(other.values()))
    mean = float(first.mean() - second.mean())
    half_width = float("nan")
    if min(len(first), len(second)) > 1:
        half_width = _welch(first, second)
    return Difference(mean, mean - half_width, mean + half_width, (len(first), len(second)), False)


def _welch(*groups: NDArray[np.float64]) -> float:
    """Half the width of Welch's interval: the groups' variances may differ."""
    squares = []
    for values in groups:
        (deviation,) = _deviation(values[:, None], np.full((len(values), 1), True), values.mean(keepdims=True))
        squares.append(float(deviation) ** 2 / len(values))
    if sum(squares) == 0:
        return 0.0
    df = sum(squares) ** 2 / sum(square**2 / (len(values) - 1) for square, values in zip(squares, groups, strict=True))
    return t_quantile(df) * float(np.sqrt(sum(squares)))
