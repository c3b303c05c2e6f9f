from experiments import numerics
from experiments.laboratory import DOES_NOT_HOLD, HOLDS
from tests.experiments.trying import verdict_of


def test_the_claim() -> None:
    assert verdict_of(numerics) == HOLDS


def test_with_the_same_formula_there_is_no_difference() -> None:
    assert verdict_of(numerics, formula=numerics.two_pass, ratios=[1.0, 100.0], steps=4) == DOES_NOT_HOLD
