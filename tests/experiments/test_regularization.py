import numpy as np
from torch import nn

from experiments import regularization
from experiments.laboratory import DOES_NOT_HOLD, HOLDS, verdict
from tests.experiments.trying import verdict_of


def test_the_claim() -> None:
    """Two seeds of a short training decide little: this shows that it runs."""
    assert verdict_of(regularization) != DOES_NOT_HOLD


def test_without_normalization_nothing_is_regularized() -> None:
    assert verdict_of(regularization, norm=nn.Identity) == DOES_NOT_HOLD


def test_the_gap_the_accuracy_and_dropout_decide() -> None:
    holds = {"neither": (1, 0.90), "BN": (1, 0.94), "dropout": (0.98, 0.93), "BN and dropout": (0.98, 0.95)}
    assert verdict_if(holds) == HOLDS
    assert verdict_if({**holds, "BN": (1, 0.90)}) == DOES_NOT_HOLD
    assert verdict_if({**holds, "BN": (0.90, 0.89)}) == DOES_NOT_HOLD
    assert verdict_if({**holds, "BN and dropout": (0.99, 0.98)}) == DOES_NOT_HOLD


def verdict_if(accuracies: dict[str, tuple[float, float]]) -> str:
    """The verdict if every seed has these accuracies on training and test images, at one size."""
    found = {"sizes": np.array([[500.0]] * 3)}
    for name, (train, test) in accuracies.items():
        found |= {f"train {name}": np.array([[train]] * 3), f"test {name}": np.array([[test]] * 3)}
    return verdict(regularization.judge(found))
