import torch
from torch import Tensor, nn

from experiments import residual
from experiments.laboratory import DOES_NOT_HOLD, HOLDS
from tests.experiments.trying import verdict_of


def test_the_claim() -> None:
    assert verdict_of(residual, seeds=4) == HOLDS


def test_without_normalization_the_share_stays() -> None:
    assert verdict_of(residual, norm=nn.Identity) == DOES_NOT_HOLD


def test_mean_squares_are_those_of_the_branch_and_the_input() -> None:
    """A branch of zeros has no share, and leaves the input as it is."""

    class Zeros(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    inputs, branches = residual.mean_squares(torch.full((2, 3, 8, 8), 2.0), 4, Zeros)
    assert inputs.tolist() == [4] * 4
    assert branches.tolist() == [0] * 4
