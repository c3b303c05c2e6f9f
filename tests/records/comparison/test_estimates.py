"""Means, differences and their intervals, against SciPy's and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from labml_bn.records.comparison.estimates import difference, estimate, mean_curve, t_quantile

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize("df", [1, 2, 4, 7.5, 49])
def test_quantiles(df: float) -> None:
    assert t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-12)
    assert math.isnan(t_quantile(0))


@pytest.mark.parametrize("n", [2, 3, 5, 50])
def test_an_estimate_is_that_of_scipy(n: int) -> None:
    values = RANDOM.normal(0.99, 0.001, n)
    found = estimate(list(values))
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert (found.n, found.mean, found.low, found.high) == pytest.approx((n, values.mean(), low, high), rel=1e-12)


def test_an_estimate_by_hand() -> None:
    """1, 2, 3: mean 2, standard deviation 1, t = 4.3027 for 2 degrees of freedom."""
    found = estimate([1.0, math.nan, 3.0, 2.0, math.inf])
    assert (found.n, found.mean) == (3, 2.0)
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    assert estimate([0.5]).mean == 0.5
    assert estimate([0.5]).n == 1
    assert math.isnan(estimate([0.5]).half_width)
    assert math.isnan(estimate([]).mean)
    assert estimate([math.nan]).n == 0


def test_equal_values_have_an_interval_without_width() -> None:
    found = estimate([0.9917] * 7)
    assert found.low == found.mean == found.high == pytest.approx(0.9917, rel=1e-15)


def test_a_curve_is_an_estimate_at_each_step() -> None:
    values = RANDOM.normal(size=(4, 6))
    values[0, 1] = values[:, 2] = values[:3, 3] = math.nan
    mean, low, high = mean_curve(values)
    for step in range(6):
        found = estimate(list(values[:, step]))
        np.testing.assert_allclose([mean[step], low[step], high[step]], [found.mean, found.low, found.high])


def test_a_paired_difference_is_that_of_scipy() -> None:
    one, other = RANDOM.normal(0.99, 0.001, 5), RANDOM.normal(0.98, 0.001, 5)
    found = difference(dict(enumerate(one)), dict(reversed(list(enumerate(other)))))
    assert found is not None
    low, high = stats.ttest_rel(one, other).confidence_interval()
    assert (found.mean, found.low, found.high) == pytest.approx(((one - other).mean(), low, high), rel=1e-9)
    assert (found.n, found.paired, found.excludes_zero) == ((5, 5), True, True)


@pytest.mark.parametrize("sizes", [(5, 3), (2, 20)])
def test_an_unpaired_difference_is_that_of_scipy(sizes: tuple[int, int]) -> None:
    one, other = RANDOM.normal(0.99, 0.004, sizes[0]), RANDOM.normal(0.99, 0.001, sizes[1])
    found = difference(dict(enumerate(one)), dict(enumerate(other, 100)))
    assert found is not None
    low, high = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert found.mean == pytest.approx(one.mean() - other.mean())
    assert (found.n, found.paired, found.excludes_zero) == (sizes, False, bool(low > 0 or high < 0))


@pytest.mark.parametrize(("start", "paired", "n"), [(1, True, (4, 4)), (2, True, (3, 3)), (3, False, (5, 5))])
def test_partly_common_seeds(start: int, paired: bool, n: tuple[int, int]) -> None:
    """Paired over the common seeds if they are most of each group's; else the interval of all is narrower."""
    one, other = RANDOM.normal(0.99, 0.001, 5), RANDOM.normal(0.98, 0.001, 5)
    found = difference(dict(enumerate(one)), dict(enumerate(other, start)))
    assert found is not None
    assert (found.paired, found.n) == (paired, n)
    mean = (one[start:] - other[: 5 - start]).mean() if paired else one.mean() - other.mean()
    assert found.mean == pytest.approx(mean)


def test_single_runs() -> None:
    single = difference({5: 0.99}, {5: 0.98})
    assert single is not None
    assert single.mean == pytest.approx(0.01)
    assert (single.n, single.excludes_zero) == ((1, 1), None)
    assert math.isnan(single.low)
    against_five = difference({5: 0.99}, dict.fromkeys(range(5), 0.98))
    assert against_five is not None
    assert (against_five.n, against_five.excludes_zero) == ((1, 5), None)
    assert difference({5: math.nan}, {5: 0.98}) is None
    assert difference({}, {5: 0.98}) is None


def test_rounding_errors_are_no_variance() -> None:
    """Accuracies of 10,000 images are multiples of 0.0001, whose equal differences differ in the last bits."""
    one = {seed: (9900 - 4 * seed) / 10000 for seed in range(5)}
    other = {seed: (9890 - 4 * seed) / 10000 for seed in range(5)}
    assert len({one[seed] - other[seed] for seed in range(5)}) > 1
    found = difference(one, other)
    assert found is not None
    assert found.low == found.mean == found.high == pytest.approx(0.001)
    assert found.excludes_zero is None
    unpaired = difference(dict.fromkeys(range(3), 0.9917), dict.fromkeys(range(10, 14), 0.9907))
    assert unpaired is not None
    assert unpaired.low == unpaired.mean == unpaired.high == pytest.approx(0.001)
    assert (unpaired.n, unpaired.excludes_zero) == ((3, 4), None)
