import functools
from collections.abc import Callable

import numpy as np
import pytest
from torch import nn

from experiments import small_batches
from experiments.laboratory import DOES_NOT_HOLD, HOLDS, verdict
from experiments.small_batches import BN, GHOST, GROUP, RENORM
from tests.experiments.trying import verdict_of


def only_group_norm(steps: int) -> dict[str, Callable[[int], nn.Module]]:
    return dict.fromkeys((BN, GHOST, RENORM, GROUP), functools.partial(nn.GroupNorm, 4))


@pytest.mark.slow
def test_with_one_normalization_in_the_place_of_all() -> None:
    assert verdict_of(small_batches, choose=only_group_norm) == DOES_NOT_HOLD


def test_the_verdict_of_numbers_as_claimed_and_of_others() -> None:
    noise = np.random.default_rng(1).normal(scale=0.1, size=(5, 3))
    claimed = {BN: [90, 96, 97], GHOST: [90, 96.5, 97.5], RENORM: [93, 96, 97], GROUP: [96, 96, 96]}
    found = {name: np.array(values) + noise for name, values in claimed.items()}
    found["batch sizes"] = np.array([[2, 32, 1024]] * 5)
    found[GHOST] = found[GHOST] + np.random.default_rng(2).normal(scale=0.1, size=(5, 3))
    assert verdict(small_batches.judge(found)) == HOLDS
    for name in (BN, GHOST, RENORM, GROUP):
        others = [87, 95, 96] if name in (GHOST, RENORM) else [94, 94, 97] if name == BN else [88, 96, 96]
        assert verdict(small_batches.judge({**found, name: np.array(others) + noise})) == DOES_NOT_HOLD
