"""The numbers of a layer, in plain arithmetic."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labml_bn import BatchNorm
from labml_bn.norm import Renormalization, diagnose
from labml_bn.norm.diagnosis import LayerDiagnosis


def data(count: int = 30, size: int = 16) -> Tensor:
    """Batches of four channels: normal, constant, far below eps, and with a large mean."""
    x = torch.randn(count, size, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x * torch.tensor([2, 0, 1e-4, 1]) + torch.tensor([1, 7, 0, 1e5])


def diagnosed(layer: nn.Module, **options: Any) -> LayerDiagnosis:
    (found,) = diagnose(layer, data(), **options).layers
    return found


@pytest.mark.parametrize("kind", [BatchNorm, nn.BatchNorm1d])
def test_numbers(kind: Any) -> None:
    layer = kind(4, momentum=None).double()
    x = data()
    for batch in x:
        layer(batch)
    found = diagnosed(layer, evaluation=x[:10] + torch.tensor([1, 0, 0, 2]))
    assert (found.channels, found.momentum, found.updates, found.calls, found.batch_size) == (4, None, 30, 1, 16)
    assert (found.dead, found.vanishing) == (1, 1)
    assert (found.training, found.frozen, found.initial, found.invalid) == (True, False, False, ())
    assert (found.from_population.mean, found.from_population.var) == pytest.approx((0, 1), abs=1e-6)

    mean, var = x.mean(1), x.var(1)
    to_batch = ((mean.mean(0) - mean) ** 2 / (var + 1e-5)).mean()
    ratios = ((var.mean(0) + 1e-5) / (var + 1e-5)).log().square().mean()
    assert found.from_batch.mean == pytest.approx(to_batch.sqrt().item(), rel=1e-6)
    assert found.from_batch.var == pytest.approx(math.exp(ratios.sqrt().item()), rel=1e-6)

    sd2 = var.mean(0) + 1e-5
    noise = mean.var(0) / sd2 + var.var(0) / sd2.square() / 4
    assert found.noise == pytest.approx(noise.sqrt().median().item(), rel=1e-6)
    of_running = (mean.var(0) / sd2 / 30).mean().sqrt().item()
    assert found.noise_of_running.mean == pytest.approx(of_running, rel=1e-6)

    assert found.from_training is not None
    expected = math.sqrt((0.25 + 4) / 4)  # half a standard deviation in one channel, two in another
    assert found.from_training.mean == pytest.approx(expected, rel=0.05)
    assert found.from_training.var < 1.1


@pytest.mark.parametrize(("ghost_batch_size", "together"), [(None, 64), (64, 64), (33, 32), (2, 2)])
def test_ghost_batches(ghost_batch_size: int | None, together: int) -> None:
    """The noise is that of as many samples as are normalized together: the square root of 1.5 / n."""
    torch.manual_seed(0)
    layer = BatchNorm(200, ghost_batch_size=ghost_batch_size)
    (found,) = diagnose(layer, torch.randn(60, 64, 200)).layers
    assert (found.batch_size, found.ghost_batch_size) == (together, ghost_batch_size)
    assert found.noise == pytest.approx(math.sqrt(1.5 / together), rel=0.05)


@pytest.mark.parametrize(
    ("renorm", "corrected"),
    [
        (None, False),
        (Renormalization(start=0, r_end=0, d_end=0), True),
        (Renormalization(), False),
        (Renormalization(r_max=1.1, start=0, r_end=0, d_end=0), False),
        (Renormalization(d_max=0.1, start=0, r_end=0, d_end=0), False),
    ],
)
def test_batch_renormalization(renorm: Renormalization | None, corrected: bool) -> None:
    """It removes the batch's noise, unless it has not begun to or its limits are too narrow."""
    torch.manual_seed(0)
    (found,) = diagnose(BatchNorm(50, renorm=renorm), torch.randn(60, 4, 50)).layers
    assert (found.noise == 0) == corrected


def test_far_from_the_population() -> None:
    layer = nn.BatchNorm1d(4).double()
    x = data()
    mean, var = x.mean(1).mean(0), x.var(1).mean(0)
    layer.running_mean = mean + 0.7 * var.sqrt()
    layer.running_var = var * 3
    found = diagnosed(layer)
    scale = (var / (var + 1e-5)).sqrt()
    error = 4 * x.mean(1).var(0) / 30 / (var + 1e-5)  # two standard errors of the population's mean
    expected = ((0.7 * scale) ** 2 - error).clamp(min=0).mean().sqrt().item()
    assert found.from_population.mean == pytest.approx(expected, rel=1e-6)
    assert 2 < found.from_population.var < 3  # less than 3: in two of four channels, eps hides the difference
    assert found.effect > 0


@pytest.mark.parametrize(
    ("momentum", "updates", "initial", "share"),
    [
        (0.1, 0, 1.0, 0.0),
        (0.1, 1, 0.9, 0.01),
        (0.1, 3, 0.729, 0.01 * (1 + 0.81 + 0.6561)),
        (1.0, 5, 0.0, 1.0),
        (None, 0, 1.0, 1.0),
        (None, 4, 0.0, 0.25),
        (0.2, None, 0.0, 0.04 / 0.36),
        (0.0, 9, 1.0, 0.0),
    ],
)
def test_weights_in_the_running_statistics(
    momentum: float | None, updates: int | None, initial: float, share: float
) -> None:
    """Those of the initial values, and the sum of the squares of those of the batches."""
    layer = LayerDiagnosis("", 1, momentum, updates, True, False, False, ())
    assert layer.initial_weight == pytest.approx(initial)
    assert layer.batch_share == pytest.approx(share)


def test_invalid_state() -> None:
    layer = nn.BatchNorm1d(4).double()
    for name, value in (("weight", math.nan), ("running_mean", math.inf), ("running_var", -1.0)):
        with torch.no_grad():
            getattr(layer, name)[2] = value
    assert diagnosed(layer).invalid == ("weight", "running_mean", "running_var")
    (found,) = diagnose(nn.BatchNorm1d(4).double(), data() / 0).layers
    assert found.invalid == ("input",)


def test_without_a_count_of_batches() -> None:
    layer = nn.BatchNorm1d(4).double()
    layer.num_batches_tracked = None
    assert diagnosed(layer).updates is None
