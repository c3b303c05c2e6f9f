import numpy as np
import pytest

from experiments import robustness
from experiments.laboratory import DOES_NOT_HOLD, HOLDS, verdict
from tests.experiments.trying import verdict_of


def test_a_network_is_as_robust_as_itself() -> None:
    assert verdict_of(robustness, norms=["none", "none"], layers="50N") == DOES_NOT_HOLD


@pytest.mark.parametrize(
    ("noise", "attack", "expected"), [(20, 20, HOLDS), (5, 20, DOES_NOT_HOLD), (20, -20, DOES_NOT_HOLD)]
)
def test_the_verdict_of_numbers(noise: float, attack: float, expected: str) -> None:
    around = np.random.default_rng(1).normal(60, 1, size=(5, 8))
    with_bn, without = robustness.NAMES
    found = {f"{kind}, {name}": around for kind in ("noise", "attack") for name in (with_bn, without)}
    found[f"noise, {with_bn}"] = around[::-1] - noise
    found[f"attack, {with_bn}"] = around[::-1] - attack
    assert verdict(robustness.judge(found)) == expected
