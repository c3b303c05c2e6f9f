import numpy as np

from experiments import small_rates
from experiments.laboratory import DOES_NOT_HOLD, HOLDS, verdict
from tests.experiments.trying import verdict_of


def test_the_claim() -> None:
    """Two seeds of a short training decide nothing: this shows that it runs."""
    assert verdict_of(small_rates) != DOES_NOT_HOLD


def test_without_normalization_there_is_no_advantage() -> None:
    assert verdict_of(small_rates, norms=("none", "none")) == DOES_NOT_HOLD


def test_the_advantage_can_be_at_large_rates_or_at_all() -> None:
    without = [0.90, 0.93, 0.10]
    assert verdict_if([0.90, 0.94, 0.97], without) == HOLDS
    assert verdict_if([0.94, 0.97, 0.97], without) == DOES_NOT_HOLD


def verdict_if(accuracies: list[float], without: list[float]) -> str:
    """The verdict if every seed has these accuracies, held-out and test, at three rates."""
    found = {"rates": [0.01, 0.1, 1]}
    for name, values in (("with", accuracies), ("without", without)):
        found |= {f"held out {name}": values, f"test {name}": values}
    return verdict(small_rates.judge({name: np.array([values] * 3) for name, values in found.items()}))
