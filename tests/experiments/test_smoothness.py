import torch
from torch import nn

from experiments import smoothness
from experiments.laboratory import DOES_NOT_HOLD, UNDECIDED, Criterion, Trial, stacked
from tests.experiments.trying import verdict_of


def criteria(**changes: object) -> list[Criterion]:
    """Those of the quick size, which is too short for the accuracies of the claim."""
    trials = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        size = {**smoothness.EXPERIMENT.size, **smoothness.EXPERIMENT.quick, **changes}
        trials.append(smoothness.measure(Trial(seed, "smoothness"), **size))
    return smoothness.judge(stacked(trials))


def test_noise_shifts_more_and_batch_normalization_is_smoother() -> None:
    shift, _, _, loss, gradient, _ = criteria()
    assert shift.found.mean > 0
    assert loss.found.mean < 0
    assert gradient.found.mean < 0


def test_without_noise_batch_normalization_does_not_shift_more() -> None:
    assert criteria(noise=nn.Identity)[0].outcome == DOES_NOT_HOLD


def test_without_normalization_nothing_is_smoother() -> None:
    assert {each.outcome for each in criteria(norm=nn.Identity)[3:]} == {DOES_NOT_HOLD}


def test_one_seed_gives_no_verdict() -> None:
    assert verdict_of(smoothness, seeds=1) == UNDECIDED
