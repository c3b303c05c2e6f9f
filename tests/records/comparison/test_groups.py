"""Which runs are together, and what the groups are called."""

import dataclasses

import pytest

from labml_bn.records.comparison.groups import WITHIN, differing, group_runs
from labml_bn.settings import KEYS
from tests.records.comparison.conftest import MakeRun


def test_runs_that_differ_only_in_their_seed(make_run: MakeRun) -> None:
    """Or in settings that do not change the numbers."""
    runs = [make_run(seed, norm=norm) for seed in (7, 3) for norm in ("batch_norm", "none")]
    same = {"keep": 9, "checkpoint_interval": 0.5, "data_path": "/x", "logs_path": "/y", "device.cuda_device": 1}
    runs.append(make_run(4, norm="none", **same))
    first, second = group_runs(runs)
    assert (first.name, second.name) == ("batch_norm", "no_norm")
    assert [run.settings["seed.seed"] for run in first.runs] == [3, 7]
    assert [run.settings["seed.seed"] for run in second.runs] == [3, 4, 7]
    assert differing(runs) == ["norm"]


@pytest.mark.parametrize("key", KEYS)
def test_every_other_setting_separates(make_run: MakeRun, key: str) -> None:
    run = make_run()
    other = dataclasses.replace(run, settings={**run.settings, key: "none" if key == "norm" else 99})
    assert len(group_runs([run, other])) == (1 if key in WITHIN else 2)


def test_names_are_what_differs(make_run: MakeRun) -> None:
    """Also a default value."""
    runs = [make_run(norm="none", **{"optimizer.learning_rate": rate}) for rate in (0.001, 0.1)]
    assert [group.name for group in group_runs(runs)] == ["lr=0.001", "lr=0.1"]
    runs.append(make_run(**{"optimizer.learning_rate": 0.1}))
    assert [group.name for group in group_runs(runs)] == ["no_norm lr=0.001", "no_norm lr=0.1", "batch_norm lr=0.1"]
    (alone,) = group_runs(runs[:1])
    assert alone.name.startswith("no_norm epochs=3")
    assert "seed" not in alone.name


def test_the_name_that_the_user_has_given(make_run: MakeRun) -> None:
    """If all runs of the group have it, and no other group."""
    runs = [make_run(seed, norm=norm) for seed in (1, 2) for norm in ("batch_norm", "none")]
    for run in runs[::2]:
        run.notes["name"] = "ours"
    assert [group.name for group in group_runs(runs)] == ["ours", "no_norm"]
    runs[1].notes["name"] = "theirs"
    assert [group.name for group in group_runs(runs)] == ["ours", "no_norm"]
    for run in runs:
        run.notes["name"] = "ours"
    assert [group.name for group in group_runs(runs)] == ["batch_norm", "no_norm"]


def test_of_a_seed_that_was_run_again_the_newest_counts(make_run: MakeRun) -> None:
    newest = make_run(1, uuid="a", started=10)
    older = [make_run(1, uuid="b", started=8), make_run(1, uuid="c", started=9)]
    other = make_run(2, uuid="d", started=7)
    (group,) = group_runs([newest, *older, other])
    assert group.runs == (newest, other)
    assert group.older == tuple(older)


def test_runs_that_diverged_are_apart(make_run: MakeRun) -> None:
    runs = [make_run(seed, status="diverged" if seed == 2 else "completed") for seed in range(4)]
    (group,) = group_runs(runs)
    assert [run.settings["seed.seed"] for run in group.runs] == [0, 1, 3]
    assert group.diverged == (runs[2],)
    assert group.all_runs == (runs[0], runs[1], runs[3], runs[2])
