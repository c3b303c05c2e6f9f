from experiments import inference
from experiments.laboratory import DOES_NOT_HOLD, HOLDS
from tests.experiments.trying import verdict_of


def test_the_claim() -> None:
    assert verdict_of(inference) == HOLDS


def test_without_normalization_nothing_depends_on_the_batch() -> None:
    assert verdict_of(inference, norm="none") == DOES_NOT_HOLD
