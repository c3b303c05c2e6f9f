import functools

from torch import nn

from experiments import decay
from experiments.laboratory import DOES_NOT_HOLD, HOLDS
from labml_bn import BatchNorm
from tests.experiments.trying import verdict_of


def test_the_claim() -> None:
    assert verdict_of(decay, seeds=3) == HOLDS


def test_without_normalization_decay_is_not_a_rising_rate() -> None:
    assert verdict_of(decay, norm=nn.Identity) == DOES_NOT_HOLD


def test_the_rate_rises_by_the_square() -> None:
    assert verdict_of(decay, exponent=1) == DOES_NOT_HOLD


def test_a_large_eps_breaks_the_invariance() -> None:
    assert verdict_of(decay, norm=functools.partial(BatchNorm, eps=0.1)) == DOES_NOT_HOLD
