import pytest
from torch import nn

from experiments import leak
from experiments.laboratory import DOES_NOT_HOLD, HOLDS
from tests.experiments.trying import verdict_of


@pytest.mark.slow
def test_the_claim() -> None:
    assert verdict_of(leak) == HOLDS


def test_without_normalization_nothing_leaks() -> None:
    assert verdict_of(leak, norm=lambda channels: nn.Identity(), steps=20) == DOES_NOT_HOLD
