"""Densities: their area, SciPy's own, and axes of any scale and for any values."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from labml_bn.records.density import Axis, choose_axis, density, from_quantiles

GENERATOR = np.random.default_rng(1)

#: Values, and the scale of their axis.
CASES = {
    "normal": (GENERATOR.normal(size=500), "linear"),
    "few": (GENERATOR.normal(3, 0.1, size=20), "linear"),
    "variances": (10 ** GENERATOR.uniform(-3, 3, size=200), "log"),
    "gradients": (GENERATOR.standard_cauchy(size=5000) ** 3, "asinh"),
    "one": (np.array([0.7]), "linear"),
    "two": (np.array([-1.0, 1.0]), "linear"),
    "equal": (np.ones(50), "linear"),
    "nearly equal": (1 + 1e-14 * np.arange(50), "linear"),
    "zero": (np.zeros(20), "linear"),
    "tiny": (np.full(3, 5e-324), "linear"),
    "huge": (np.array([-1e100, 1e100, 5e-324, 0.0]), "linear"),
    "from tiny to huge": (np.array([1e-99, 1e-99, 1e-99, -1e100]), "asinh"),
    "most are 0": (np.array([0.0] * 90 + [1.0] * 10), "linear"),
}


def area(values: NDArray[np.float64], axis: Axis) -> float:
    """The area under a density, over the positions on the axis."""
    points, heights = density(values, axis)
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(axis.positions(points))).sum())


@pytest.mark.parametrize("case", CASES)
def test_the_area_is_the_share_of_values_that_are_shown(case: str) -> None:
    values, scale = CASES[case]
    axis = choose_axis(values)
    assert (axis.scale, axis.low < axis.high) == (scale, True)
    assert area(values, axis) == pytest.approx(len(axis.shown(values)) / len(values), rel=1e-5)
    assert len(axis.shown(values)) >= 0.99 * len(values)


@pytest.mark.parametrize("case", ["normal", "few", "variances"])
def test_the_density_is_that_of_scipy(case: str) -> None:
    """With Silverman's bandwidth, computed here in another way, on the axis' positions."""
    values, _ = CASES[case]
    axis = choose_axis(values)
    points, heights = density(values, axis)
    positions = axis.positions(values)
    bandwidth = 0.9 * min(positions.std(), stats.iqr(positions, scale="normal")) * len(values) ** -0.2
    reference = stats.gaussian_kde(positions, bandwidth / positions.std(ddof=1))
    expected = reference(axis.positions(points))
    np.testing.assert_allclose(heights, expected, atol=0.01 * expected.max())


def test_an_axis_is_cut_for_a_few_values_far_out() -> None:
    values = np.append(GENERATOR.normal(size=999), 30.0)
    axis = choose_axis(values)
    assert axis.high < 10
    assert len(axis.shown(values)) < 1000
    assert area(values, axis) == pytest.approx(len(axis.shown(values)) / 1000)
    assert choose_axis(np.append(GENERATOR.normal(size=20), 30.0)).high > 30  # of a few channels none is left out


@pytest.mark.parametrize("scale", ["linear", "log", "asinh"])
def test_positions_and_back(scale: str) -> None:
    axis = Axis(scale, 0.1, 100.0, 0.3)
    values = np.array([0.1, 0.5, 7.0, 100.0])
    np.testing.assert_allclose(axis.values(axis.positions(values)), values)


def test_nothing_within_the_axis() -> None:
    points, heights = density(np.array([5.0]), Axis("linear", 0.0, 1.0))
    assert len(points) == len(heights) == 0


def test_values_from_quantiles() -> None:
    values = GENERATOR.normal(size=100_000)
    quantiles = np.quantile(values, np.arange(21) / 20)
    found = from_quantiles(quantiles)
    np.testing.assert_allclose(np.quantile(found, np.arange(1, 20) / 20), quantiles[1:-1], atol=0.01)
    assert quantiles[0] <= found.min() < found.max() <= quantiles[-1]
    assert set(from_quantiles(np.array([2.0]))) == {2.0}
