"""The momentum that is recommended, by the rule that is stated."""

import math

import pytest
import torch

from labml_bn import BatchNorm
from labml_bn.norm.diagnosis import LayerDiagnosis
from labml_bn.norm.diagnosis.moments import Shift
from labml_bn.norm.diagnosis.thresholds import LEFT_OVER, STATISTICS, arriving_momentum, distance, quiet_momentum


def test_distance() -> None:
    assert distance(None, STATISTICS) == 0
    assert distance(Shift(0.0, 1.0), STATISTICS) == 0
    assert distance(STATISTICS, STATISTICS) == pytest.approx(1)
    assert distance(Shift(3 * STATISTICS.mean, 1.0), STATISTICS) == pytest.approx(3)
    assert distance(Shift(0.0, STATISTICS.var**2), STATISTICS) == pytest.approx(2)
    assert not distance(Shift(math.nan, math.nan), STATISTICS) > 1


@pytest.mark.parametrize(("updates", "momentum"), [(1, 0.98), (5, 0.55), (12, 0.28), (37, 0.11), (38, 0.1), (900, 0.1)])
def test_arriving(updates: int, momentum: float) -> None:
    """The initial values have the weight `LEFT_OVER` then; never less than PyTorch's default."""
    assert arriving_momentum(updates) == pytest.approx(momentum)
    assert (1 - momentum) ** updates <= LEFT_OVER + 1e-12
    assert momentum == 0.1 or (1 - momentum + 0.01) ** updates > LEFT_OVER


def test_quiet() -> None:
    """With it, the running mean of independent batches is within half of the threshold of the population's."""
    noise = 0.5  # of a batch's mean, in standard deviations
    layer = LayerDiagnosis("", 1, 1.0, 100, True, False, False, (), noise_of_running=Shift(noise, 1.0))
    momentum = quiet_momentum(layer)
    assert momentum == 0.07  # p / (2 - p) = (0.1 / 0.5)², so p = 0.0769
    running = BatchNorm(2000, momentum=momentum).double()
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        running(torch.randn(4, 2000, dtype=torch.float64, generator=generator))
    assert running.running_mean is not None
    assert 0.08 < running.running_mean.square().mean().sqrt().item() < STATISTICS.mean / 2
