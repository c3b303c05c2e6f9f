import torch
from torch import nn

from experiments import explosion
from experiments.laboratory import DOES_NOT_HOLD, HOLDS
from tests.experiments.trying import verdict_of


def test_the_claim() -> None:
    assert verdict_of(explosion, seeds=4) == HOLDS


def test_without_normalization_nothing_explodes() -> None:
    assert verdict_of(explosion, norm=nn.Identity) == DOES_NOT_HOLD


def test_another_activation_has_another_growth() -> None:
    assert verdict_of(explosion, activation=torch.tanh) == DOES_NOT_HOLD
