from experiments import outside
from experiments.laboratory import DOES_NOT_HOLD, HOLDS
from labml_bn import BatchNorm
from tests.experiments.trying import verdict_of


def test_the_claim() -> None:
    assert verdict_of(outside) == HOLDS


def test_with_the_gradient_through_the_statistics_the_layer_does_not_move() -> None:
    def inside(units: int) -> BatchNorm:
        return BatchNorm(units, affine=False)

    assert verdict_of(outside, centre=inside(20), normalize=inside(20)) == DOES_NOT_HOLD
