import math

import numpy as np
import pytest

from experiments.laboratory import (
    DOES_NOT_HOLD,
    HOLDS,
    UNDECIDED,
    Trial,
    above,
    as_text,
    bars,
    below,
    curve,
    panels,
    stacked,
    verdict,
    within,
)
from labml_bn.records.comparison.estimates import estimate


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([2.0, 2.1, 2.2], HOLDS),
        ([0.0, 0.1, 0.2], DOES_NOT_HOLD),
        ([0.0, 1.1, 2.2], UNDECIDED),  # the bound is inside the interval
        ([2.0], UNDECIDED),  # no interval
        ([2.0, 2.1, math.nan], UNDECIDED),  # one could not be measured
        ([1.0, 1.0], DOES_NOT_HOLD),  # exactly the bound
    ],
)
def test_the_rule_of_a_criterion(values: list[float], outcome: str) -> None:
    assert above("", values, 1).outcome == outcome
    assert below("", -np.array(values), -1).outcome == outcome


def test_a_range_includes_its_ends() -> None:
    assert within("", [0.0, 0.0], 0, 0).outcome == HOLDS
    assert within("", [1.0, 1.1], 2, 3).outcome == DOES_NOT_HOLD
    assert within("", [1.0, 2.5], 2, 3).outcome == UNDECIDED
    assert within("", [1.0], 0, 3).outcome == UNDECIDED


def test_a_criterion_is_about_one_number_for_each_seed() -> None:
    with pytest.raises(ValueError, match=r"got an array of shape \(2, 3\)"):
        above("", np.zeros((2, 3)), 1)


def test_a_verdict_needs_all_criteria() -> None:
    holds, fails, open_ = above("", [2.0, 2.0], 1), above("", [0.0, 0.0], 1), above("", [2.0], 1)
    assert verdict([holds, holds]) == HOLDS
    assert verdict([holds, open_]) == UNDECIDED
    assert verdict([holds, open_, fails]) == DOES_NOT_HOLD
    assert verdict([]) == UNDECIDED


def test_numbers_are_rounded_by_their_interval() -> None:
    assert as_text(estimate([0.9921, 0.9925, 0.9930])) == "0.9925 ± 0.0011 (n = 3)"
    assert as_text(estimate([1.2e-7, 1.4e-7])) == "1.3e-07 ± 1.3e-07 (n = 2)"
    assert as_text(estimate([3.0])) == "3 (no interval, n = 1)"
    assert as_text(estimate([3.0, 3.0])) == "3 (± 0, n = 2)"


def test_trials_are_stacked_in_their_order() -> None:
    found = stacked([{"a": 1.0, "b": [1, 2]}, {"a": None, "b": [3, 4]}])
    np.testing.assert_array_equal(found["a"], [1.0, math.nan])
    assert found["b"].tolist() == [[1, 2], [3, 4]]


def test_figures() -> None:
    figure, (left, right) = panels("one", "two")
    curve(left, [1, 2, 3], [[1, 2, 3], [1, 3, 5]], "mean", 0)
    bars(right, {"a": [1.0, 2.0], "b": [1.0]})
    assert left.lines[0].get_ydata().tolist() == [1, 2.5, 4]  # type: ignore[union-attr]
    assert len(figure.axes) == 2
    assert len(panels("one", "two", "three", columns=2)[0].axes) == 4


def test_a_run_is_trained_once() -> None:
    """Also one that has diverged; and what differs in a setting is another."""
    words = ["epochs=1", "train_samples=500", "valid_samples=100", "layers=10N", "inner_iterations=1", "norm=none"]
    trial = Trial(3, "sweep")
    first = trial.train(*words)
    assert (first.status, first.sweep, first.settings["seed.seed"]) == ("completed", "sweep", 3)
    assert trial.train(*words).folder == first.folder
    assert trial.train(*words, "epochs=2").folder != first.folder
    diverged = trial.train(*words, "optimizer.optimizer=SGD", "lr=1e6")
    assert diverged.status == "diverged"
    assert trial.train(*words, "optimizer.optimizer=SGD", "lr=1e6").folder == diverged.folder
