from torch import nn

from experiments import bias
from experiments.laboratory import DOES_NOT_HOLD, HOLDS
from tests.experiments.trying import verdict_of


def test_the_claim() -> None:
    assert verdict_of(bias) == HOLDS


def test_without_normalization_a_bias_has_an_effect() -> None:
    assert verdict_of(bias, norm=nn.Identity) == DOES_NOT_HOLD
