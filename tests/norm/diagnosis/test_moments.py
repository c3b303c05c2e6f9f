"""Moments of batches, their variation and shifts, against NumPy in float64."""

import math

import numpy as np
import pytest
import torch

from labml_bn.norm.diagnosis.moments import InputMoments, Shift, Statistics

EPS = 1e-5


def batches(sizes: tuple[int, ...] = (8, 8, 8, 4), shape: tuple[int, ...] = (3, 2)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(rng.normal(size=(1, 5, 1, 1)), 2, size=(size, 5, *shape)) for size in sizes]


def moments_of(data: list[np.ndarray], *, unbiased: bool = True) -> InputMoments:
    moments = InputMoments(unbiased=unbiased)
    for x in data:
        moments.add(torch.from_numpy(x), len(x))
    return moments


@pytest.mark.parametrize("unbiased", [True, False])
def test_average_and_pooled(unbiased: bool) -> None:
    data = batches()
    sizes = [len(x) for x in data]
    moments = moments_of(data, unbiased=unbiased)
    means = np.stack([x.mean((0, 2, 3)) for x in data])
    variances = np.stack([x.var((0, 2, 3), ddof=int(unbiased)) for x in data])
    mean, var = moments.average()
    np.testing.assert_allclose(mean.numpy(), np.average(means, axis=0, weights=sizes), rtol=1e-12)
    np.testing.assert_allclose(var.numpy(), np.average(variances, axis=0, weights=sizes), rtol=1e-12)
    assert (moments.batch_size, moments.samples) == (8, 28)
    if not unbiased:
        pooled = moments.pooled()
        together = np.concatenate(data)
        np.testing.assert_allclose(pooled.mean.numpy(), together.mean((0, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(pooled.var.numpy(), together.var((0, 2, 3)), rtol=1e-12)


def test_variation_between_batches() -> None:
    """The mean square between batches, and its quotient with the one within them: an analysis of variance."""
    data = batches()
    of_samples = [x.mean((2, 3)) for x in data]  # [samples, channels]
    grand = np.concatenate(of_samples).mean(0)
    between = sum(len(x) * (x.mean(0) - grand) ** 2 for x in of_samples) / (len(data) - 1)
    within = sum(((x - x.mean(0)) ** 2).sum(0) for x in of_samples) / (28 - len(data))
    variances = [x.var((0, 2, 3), ddof=1) for x in data]
    var = np.average(variances, axis=0, weights=[8, 8, 8, 4])
    spread = sum(len(x) * (v - var) ** 2 for x, v in zip(data, variances, strict=True)) / (len(data) - 1)
    moments = moments_of(data)
    of_mean, of_var = moments.per_sample(EPS)
    np.testing.assert_allclose(of_mean.numpy(), between / (var + EPS), rtol=1e-12)
    np.testing.assert_allclose(of_var.numpy(), spread / (var + EPS) ** 2, rtol=1e-12)
    expected = (between / (var + EPS)).mean() / (within / (var + EPS)).mean()
    assert moments.sorting(EPS) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [4, 64])
def test_the_variation_does_not_depend_on_the_batch_size(size: int) -> None:
    """Of independent normal values, a sample's mean has the variance σ², and its square 2 σ⁴."""
    x = torch.randn(6400, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 1
    moments = InputMoments(unbiased=True)
    for batch in x.split(size):
        moments.add(batch, size)
    mean, var = moments.per_sample(EPS)
    assert mean.mean().item() == pytest.approx(1, rel=0.1)
    assert var.mean().item() == pytest.approx(2, rel=0.4)
    assert moments.sorting(EPS) == pytest.approx(1, rel=0.1)


def test_sorted_samples_are_noticed() -> None:
    x = torch.randn(6400, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moments = InputMoments(unbiased=True)
    for batch in x.sort(dim=0).values.split(64):
        moments.add(batch, 64)
    assert moments.sorting(EPS) > 100


def test_one_batch() -> None:
    """The variation between batches is estimated from within it; whether it is a random one is not known."""
    (x,) = batches((16,))
    moments = moments_of([x])
    of_mean, of_var = moments.per_sample(EPS)
    within = x.mean((2, 3)).var(0, ddof=1) / (x.var((0, 2, 3), ddof=1) + EPS)
    np.testing.assert_allclose(of_mean.numpy(), within, rtol=1e-12)
    np.testing.assert_allclose(of_var.numpy(), 2 * within, rtol=1e-12)
    assert math.isnan(moments.sorting(EPS))


def test_one_value_per_channel() -> None:
    with pytest.raises(ValueError, match=r"more than one value per channel in a batch, got an input of \(1, 3\)"):
        InputMoments(unbiased=True).add(torch.zeros(1, 3), 1)


def test_shift() -> None:
    one = Statistics(torch.tensor([1.0, 3.0]).double(), torch.tensor([1.0, 2.0]).double())
    other = Statistics(torch.tensor([0.0, 3.0]).double(), torch.tensor([4.0, 1.0]).double())
    shift = Shift.between(one, other, eps=0.0)
    assert shift.mean == pytest.approx(math.sqrt((0.25 + 0) / 2))
    assert shift.var == pytest.approx(math.exp(math.sqrt((math.log(4) ** 2 + math.log(2) ** 2) / 2)))
    assert Shift.between(one, one, eps=0.0) == Shift(0.0, 1.0)
    by_chance = Shift.between(one, other, eps=0.0, by_chance=(torch.tensor([0.25, 1.0]), 10.0))
    assert by_chance == Shift(0.0, 1.0)
    assert Shift(0.2, 4.0).scaled(0.5) == Shift(0.1, 2.0)
    assert str(Shift(0.123456, 12.3456)) == "0.123 sd, ×12.3"
    infinite = Shift.between(Statistics(one.mean, one.var / 0), other, eps=0.0)
    assert infinite.var == math.inf
    unknown = Shift.between(Statistics(one.mean * math.nan, -one.var), other, eps=0.0)
    assert math.isnan(unknown.mean)
    assert math.isnan(unknown.var)


def test_eps_hides_what_is_below_it() -> None:
    one, other = (Statistics(torch.zeros(2), torch.full((2,), var)) for var in (1e-12, 1e-9))
    assert Shift.between(one, other, EPS).var == pytest.approx(1, abs=1e-3)


def test_mask() -> None:
    """The moments are those of what counts, whatever the padding is; also of each sample."""
    generator = torch.Generator().manual_seed(5)
    masked, cut = InputMoments(unbiased=True), InputMoments(unbiased=True)
    for _ in range(3):
        x = torch.randn(8, 2, 6, generator=generator)
        mask = torch.arange(6).expand(8, 6) < 4
        masked.add(torch.where(mask[:, None], x, torch.nan), 8, mask)
        cut.add(x[:, :, :4], 8)
    torch.testing.assert_close(masked.pooled(), cut.pooled())
    torch.testing.assert_close(masked.per_sample(1e-5), cut.per_sample(1e-5))
    assert masked.sorting(1e-5) == pytest.approx(cut.sorting(1e-5))
    with pytest.raises(ValueError, match="more than one value per channel"):
        masked.add(x, 8, torch.arange(48).reshape(8, 6) == 3)
