from torch import Tensor

from experiments import capacity
from experiments.laboratory import DOES_NOT_HOLD, HOLDS
from labml_bn import BatchNorm
from tests.experiments.trying import verdict_of


class OnlyScaleAndShift(BatchNorm):
    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        return input * self.weight + self.bias if self.affine else input


def test_the_claim() -> None:
    assert verdict_of(capacity) == HOLDS


def test_without_normalization_inputs_are_not_confined() -> None:
    assert verdict_of(capacity, norm=OnlyScaleAndShift) == DOES_NOT_HOLD
