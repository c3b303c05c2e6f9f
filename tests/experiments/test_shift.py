from torch import nn

from experiments import shift
from experiments.laboratory import DOES_NOT_HOLD, HOLDS
from tests.experiments.trying import verdict_of


def test_the_claim() -> None:
    assert verdict_of(shift, seeds=3) == HOLDS


def test_without_normalization_nothing_is_better() -> None:
    assert verdict_of(shift, norm=nn.Identity) == DOES_NOT_HOLD
