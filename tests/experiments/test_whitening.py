import torch

from experiments import whitening
from experiments.laboratory import DOES_NOT_HOLD, HOLDS, Trial, images, stacked
from labml_bn import BatchNorm
from tests.experiments.trying import verdict_of


def test_another_batch_normalization_is_no_whitening() -> None:
    assert verdict_of(whitening, whitening=BatchNorm) == DOES_NOT_HOLD


def test_whitening_decorrelates() -> None:
    trials = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        size = {**whitening.EXPERIMENT.size, **whitening.EXPERIMENT.quick}
        trials.append(whitening.measure(Trial(seed, "whitening"), **size))
    decorrelation, *_ = whitening.judge(stacked(trials))
    assert decorrelation.outcome == HOLDS


def test_what_the_claim_says_holds() -> None:
    """The times and steps are made up: in the quick size they are too few to judge."""
    found = stacked(
        {
            "correlation: BN": 0.2,
            "correlation: ZCA": 1e-4,
            "seconds: BN": [1e-4] * len(whitening.CHANNELS),
            "seconds: ZCA": [3e-4 * 2**each for each in range(len(whitening.CHANNELS))],
            "steps: BN": 400 + seed,
            "steps: ZCA": 200 + seed,
        }
        for seed in range(3)
    )
    assert [each.outcome for each in whitening.judge(found)] == [HOLDS] * 4
    found = {**found, "seconds: ZCA": found["seconds: BN"]}
    assert DOES_NOT_HOLD in [each.outcome for each in whitening.judge(found)]


def test_steps_that_are_too_few_count_as_all() -> None:
    train = [images("train", 512)]
    steps = [
        whitening.steps_to(BatchNorm, 0.3, train[0], train, 1, 16, 64, 40, target=target) for target in (0.5, 1.01)
    ]
    assert steps[0][0] < 40
    assert steps[1] == [40]
