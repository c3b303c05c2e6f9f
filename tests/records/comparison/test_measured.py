"""What the runs of a group have in common, and what is not averaged."""

import math

import numpy as np
import pytest

from labml_bn.records.comparison.measured import at_common_steps, read_groups
from labml_bn.records.record import Series
from tests.records.comparison.conftest import MakeRun


def test_the_mean_of_the_results(make_run: MakeRun) -> None:
    (group,) = read_groups([make_run(1, [0.9, 0.95, 0.94], [3, 2, 4]), make_run(2, [0.92, 0.91, 0.9], [6, 5, 7])])
    assert group.by_seed("accuracy.test") == {1: 0.94, 2: 0.9}
    assert group.by_seed("best.accuracy.test") == {1: 0.95, 2: 0.92}
    assert group.by_seed("loss.test") == {1: 4, 2: 7}
    assert group.by_seed("best.loss.test") == {1: 2, 2: 5}
    assert group.estimate("time").mean == 60
    assert group.estimate("accuracy.test").mean == pytest.approx(0.92)
    assert (group.n, group.remarks()) == ("n = 2", [])


def test_of_runs_of_different_lengths_the_common_epochs(make_run: MakeRun) -> None:
    """Their times cannot be compared."""
    long, short = make_run(1, [0.9, 0.95, 0.99]), make_run(2, [0.8, 0.7], status="interrupted")
    (group,) = read_groups([long, short])
    assert group.by_seed("accuracy.test") == {1: 0.95, 2: 0.7}
    assert group.by_seed("best.accuracy.test") == {1: 0.95, 2: 0.8}
    assert group.estimate("time").n == 0
    assert group.remarks() == ["averaged over the first 2 of 3 epochs"]
    assert len(group.logged[long.folder]["accuracy.test"].steps) == 3


def test_a_run_that_is_still_running(make_run: MakeRun) -> None:
    (group,) = read_groups([make_run(1, [0.9, 0.95, 0.99]), make_run(2, [0.8], status="running")])
    assert group.by_seed("accuracy.test") == {1: 0.9, 2: 0.8}
    assert group.remarks() == ["averaged over the first 1 of 3 epochs (1 still running)"]


def test_runs_that_are_left_out_are_reported(make_run: MakeRun) -> None:
    runs = [make_run(seed, [0.9, 0.95, 0.9 + seed / 100]) for seed in range(4)]
    runs.append(make_run(4, [0.1], status="diverged"))
    runs.append(make_run(5, []))
    (runs[-1].folder / "log.jsonl").write_text("")
    runs.append(make_run(1, [0.5, 0.5, 0.5], started=-1))
    (group,) = read_groups(runs)
    assert group.by_seed("accuracy.test") == pytest.approx({seed: 0.9 + seed / 100 for seed in range(4)})
    assert group.n == "n = 4, 1 diverged"
    assert group.remarks() == [
        "n = 4, 1 diverged",
        "1 run with a seed of a newer one left out",
        "1 run not tested yet left out",
    ]
    assert len(group.logged) == 7


def test_a_group_of_which_every_run_diverged(make_run: MakeRun) -> None:
    (group,) = read_groups([make_run(seed, [0.1], status="diverged") for seed in range(2)])
    assert (group.n, group.remarks()) == ("n = 0, 2 diverged", ["n = 0, 2 diverged"])
    assert math.isnan(group.estimate("accuracy.test").mean)


def test_a_group_of_which_no_run_was_tested(make_run: MakeRun) -> None:
    run = make_run(1, [])
    (run.folder / "log.jsonl").write_text('{"track": {"loss.train": [[64, [2.0]]]}}\n')
    (group,) = read_groups([run])
    assert group.common[0]["loss.train"].values.tolist() == [[2.0]]
    assert (group.n, group.remarks()) == ("n = 1", ["no epoch to average"])


def test_common_steps() -> None:
    def series(steps: list[int], channels: int = 1) -> Series:
        return Series(np.array(steps), np.arange(len(steps) * channels, dtype=float).reshape(-1, channels))

    one = {"a": series([1, 2, 2, 4]), "b": series([1]), "c": series([1]), "d": series([1], 2)}
    other = {"a": series([2, 3, 4, 5]), "c": series([2]), "d": series([1], 3)}
    first, second = at_common_steps([one, other])
    assert first.keys() == second.keys() == {"a"}
    assert first["a"].steps.tolist() == second["a"].steps.tolist() == [2, 4]
    assert (first["a"].values[:, 0].tolist(), second["a"].values[:, 0].tolist()) == ([2, 3], [0, 2])
    assert at_common_steps([]) == ()
