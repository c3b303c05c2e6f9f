"""The rules of a verdict against SciPy's interval, and what a trial trains."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from experiments.laboratory import DOES_NOT_HOLD, HOLDS, UNDECIDED, Trial, above, as_text, below, verdict, within
from labml_bn.records.record import COMPLETED

VALUES = [1.0, 1.2, 0.9, 1.1]


def interval() -> tuple[float, float]:
    low, high = scipy.stats.t.interval(0.95, len(VALUES) - 1, np.mean(VALUES), scipy.stats.sem(VALUES))
    return float(low), float(high)


@pytest.mark.parametrize(
    ("shift", "over", "under"),
    [(-1e-6, UNDECIDED, UNDECIDED), (1e-6, HOLDS, DOES_NOT_HOLD)],
    ids=["just inside the interval", "just outside"],
)
def test_the_whole_interval_decides(shift: float, over: str, under: str) -> None:
    low, high = interval()
    assert above("x", VALUES, low - shift).outcome == over
    assert below("x", VALUES, low - shift).outcome == under
    assert below("x", VALUES, high + shift).outcome == over
    assert above("x", VALUES, high + shift).outcome == under


def test_within() -> None:
    low, high = interval()
    assert within("x", VALUES, low - 1e-6, high + 1e-6).outcome == HOLDS
    assert within("x", VALUES, low + 1e-6, high + 1e-6).outcome == UNDECIDED
    assert within("x", VALUES, high + 1e-6, high + 1).outcome == DOES_NOT_HOLD
    assert within("x", VALUES, low - 1, low - 1e-6).outcome == DOES_NOT_HOLD


@pytest.mark.parametrize("values", [[1.0], [1.0, float("nan"), 1.0], [1.0, float("inf")]], ids=str)
def test_one_seed_or_a_value_that_is_missing_decides_nothing(values: list[float]) -> None:
    assert above("x", values, 0).outcome == below("x", values, 2).outcome == UNDECIDED


def test_a_verdict_needs_all_criteria() -> None:
    holds, fails, open_ = above("x", VALUES, 0), above("x", VALUES, 2), above("x", VALUES, 1)
    assert [verdict(criteria) for criteria in ([holds], [holds, open_], [holds, open_, fails])] == [
        HOLDS,
        UNDECIDED,
        DOES_NOT_HOLD,
    ]


def test_a_criterion_is_about_one_number_for_each_seed() -> None:
    with pytest.raises(ValueError, match=r"array of shape \(2, 2\)"):
        above("x", [[1, 2], [3, 4]], 0)


@pytest.mark.parametrize(
    ("values", "text"),
    [(VALUES, "1.05 ± 0.21 (n = 4)"), ([2.0], "2 (no interval, n = 1)"), ([3.0, 3.0], "3 (± 0, n = 2)")],
    ids=str,
)
def test_text(values: list[float], text: str) -> None:
    assert as_text(above("x", values, 0).found) == text


def test_a_training_is_a_run_that_is_trained_once(folder: Path) -> None:
    words: list[Any] = ["epochs=1", "layers=8N", "train_samples=200", "valid_samples=100"]
    first = Trial(3, "name").train(*words)
    again = Trial(3, "name").train(*words)
    assert first.status == COMPLETED
    assert first.folder == again.folder
    assert Trial(4, "name").train(*words).folder != first.folder
    assert len(list(folder.glob("logs/*/*/run.yaml"))) == 2
