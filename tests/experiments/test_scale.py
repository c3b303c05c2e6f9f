from experiments import scale
from experiments.laboratory import DOES_NOT_HOLD, HOLDS
from tests.experiments.trying import verdict_of


def test_the_claim() -> None:
    assert verdict_of(scale) == HOLDS


def test_with_an_epsilon_the_scale_of_small_weights_matters() -> None:
    assert verdict_of(scale, eps=scale.USUAL) == DOES_NOT_HOLD


def test_without_normalization_larger_rates_are_no_more_stable() -> None:
    assert verdict_of(scale, norm="none") == DOES_NOT_HOLD
