import pytest

from experiments import precise
from experiments.laboratory import DOES_NOT_HOLD, HOLDS
from tests.experiments.trying import verdict_of


@pytest.mark.slow
def test_the_claim() -> None:
    assert verdict_of(precise, seeds=4) == HOLDS


def test_images_that_are_not_chosen_at_random_are_not_enough() -> None:
    assert verdict_of(precise, seeds=3, by_class=True, layers="50N", epochs=1) == DOES_NOT_HOLD
