"""The final and the best values of a run's metrics."""

import math

import numpy as np
import pytest

from labml_bn.records.record import Series
from labml_bn.records.results import best_index, possible, results


def series(*values: float) -> Series:
    return Series(np.arange(1, len(values) + 1) * 1000, np.array(values)[:, None])


def test_final_and_best() -> None:
    metrics = {
        "loss.test": series(0.5, 0.2, 0.3),
        "accuracy.test": series(0.9, 0.8, 0.9),
        "bn.norm1.running_mean": Series(np.array([1]), np.ones((1, 20))),
    }
    assert results(metrics) == {
        **{"loss.test": 0.3, "best.loss.test": 0.2},
        **{"accuracy.test": 0.9, "best.accuracy.test": 0.9},
    }
    assert best_index(metrics, "accuracy.test") == 0


def test_the_best_epoch_is_the_best_on_held_out_images() -> None:
    """Its value is that on the test images."""
    metrics = {
        **{"accuracy.test": series(0.9, 0.7, 0.8), "accuracy.held_out": series(0.1, 0.2, 0.15, 0.9)},
        **{"loss.test": series(0.1, 0.2, 0.3), "loss.held_out": series(3, 2, 1), "loss.valid": series(0.5, 0.4)},
    }
    found = results(metrics)
    assert (found["best.accuracy.test"], found["best.loss.test"]) == (0.7, 0.3)
    assert (found["best.accuracy.held_out"], found["best.loss.valid"]) == (0.9, 0.4)


@pytest.mark.parametrize(("name", "wrong"), [("accuracy.test", 1.5), ("accuracy.test", -1), ("loss.test", 1e200)])
def test_impossible_values(name: str, wrong: float) -> None:
    metrics = {name: series(wrong, 0.5, math.nan, wrong)}
    assert np.isnan(possible(name, metrics[name]).values[:, 0]).tolist() == [True, False, True, True]
    found = results(metrics)
    assert math.isnan(found[name])
    assert found[f"best.{name}"] == 0.5
    none = results({name: series(wrong)})
    assert math.isnan(none[f"best.{name}"])
