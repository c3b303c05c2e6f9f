from torch import nn

from experiments import tuning
from experiments.laboratory import DOES_NOT_HOLD
from tests.experiments.trying import verdict_of


def test_the_claim() -> None:
    assert verdict_of(tuning) != DOES_NOT_HOLD  # in a few steps, the smallest gradient varies much


def test_without_normalization_the_rate_does_not_tune_itself() -> None:
    assert verdict_of(tuning, norm=nn.Identity) == DOES_NOT_HOLD
