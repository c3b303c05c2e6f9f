"""The tables of `compare` and the sentences below them."""

import json
from pathlib import Path
from typing import Any

import pytest

from labml_bn.cli.text import table
from labml_bn.records.comparison.measured import read_groups
from labml_bn.records.comparison.rows import group_rows, run_rows, sentences
from labml_bn.records.record import Record, read_run
from tests.conftest import another, metrics
from tests.records.comparison.conftest import MakeRun


def rows_of(*runs: Record) -> list[list[str]]:
    return run_rows(read_groups(runs), runs)


def test_a_row_per_group(make_run: MakeRun) -> None:
    """1, 2, 3 percent of error: 98 % ± 4.3027·1 %/√3."""
    runs = [make_run(seed, [0.5, 1 - seed / 100, 1 - seed / 100]) for seed in (1, 2, 3)]
    runs.append(make_run(1, [0.5, 0.92, 0.9], norm="none"))
    rows = group_rows(read_groups(runs))
    assert rows == [
        ["group", "n", "final accuracy", "final loss", "time", "best accuracy", "best loss"],
        [
            "batch_norm",
            "3",
            "98.00% ± 2.48",
            "0.0200 ± 0.0248",
            "1 min 0 s ± 0.0 s",
            "98.00% ± 2.48",
            "0.0200 ± 0.0248",
        ],
        ["no_norm", "1", "90.00%", "0.1000", "1 min 0 s", "92.00%", "0.0800"],
    ]


def test_the_table_fits_80_columns(make_run: MakeRun) -> None:
    """One line per group for the final results and the time, one for the best results."""
    runs = [
        make_run(seed, [0.5, 0.6, 0.97 + seed / 1000], norm=norm, **{"optimizer.learning_rate": rate})
        for seed in (1, 2, 3)
        for norm in ("batch_norm", "none")
        for rate in (0.001, 0.01)
    ]
    lines = table(group_rows(read_groups(runs)), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 2 * (1 + 4)
    assert lines[2].split("  ")[0] == "batch_norm lr=0.001"


def test_a_loss_that_some_runs_lack(make_run: MakeRun) -> None:
    runs = [make_run(seed, [0.9, 0.9, 0.9], [1.0, 1.0, loss]) for seed, loss in enumerate((1.0, 1.0, 1e200))]
    assert group_rows(read_groups(runs))[1][2:4] == ["90.00% ± 0.00", "1.0000 ± 0.0000 (n = 2)"]


def test_groups_that_differ(make_run: MakeRun) -> None:
    """By hand: differences of 0.1, 0.2 and 0.3 points; 0.2 ± 4.3027·0.1/√3."""
    runs = [make_run(seed, [0.98 + seed / 1000], epochs=1) for seed in (1, 2, 3)]
    runs += [make_run(seed, [0.98], epochs=1, norm="none") for seed in (3, 2, 1)]
    assert sentences(read_groups(runs)) == [
        "batch_norm - no_norm: +0.20 points of final test accuracy (95 % interval -0.05 to 0.45, 3 seeds, paired): the "
        "interval includes zero",
        "batch_norm - no_norm: -0.0020 of final test loss (95 % interval -0.0045 to 0.0005, 3 seeds, paired): the "
        "interval includes zero",
    ]


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        ([0.99], [0.98], "+1.00 points of final test accuracy (one run each): no interval"),
        ([0.99, 0.98], [0.98], "(2 and 1 seeds, not paired): no interval, as a group has one run only"),
        (
            [0.99, 0.98],
            [0.98, 0.97],
            "+1.00 points of final test accuracy (2 seeds, paired): no interval, as it is the sa",
        ),
        ([0.9, 0.9, 0.9], [0.8], "no interval, as a group has one run only"),
        ([0.98, 0.98, 0.98], [0.98, 0.98, 0.98], "0.00 points of final test accuracy (3 seeds, paired): no interval"),
        ([0.99, 0.9901], [0.98, 0.9799], "(95 % interval 0.88 to 1.14, 2 seeds, paired): the interval excludes zero"),
        (
            [0.9, 0.9001, 0.9002],
            [0.8, 0.8, 0.8],
            "(95 % interval 9.99 to 10.03, 3 seeds, paired): the interval excludes z",
        ),
    ],
)
def test_what_can_be_said(make_run: MakeRun, one: list[float], other: list[float], text: str) -> None:
    runs = [make_run(seed, [value], epochs=1) for seed, value in enumerate(one)]
    runs += [make_run(seed, [value], epochs=1, norm="none") for seed, value in enumerate(other)]
    assert text in sentences(read_groups(runs))[0]


def test_an_end_that_is_not_zero_is_not_shown_as_zero(make_run: MakeRun) -> None:
    """By hand: differences of 0 and 0.01 points; 0.0043 ± 2.4469·0.0053/√7, which two decimals would show as zero."""
    values = [0.98 + 0.0001 * seed for seed in (1, 2, 3, 2, 1, 2, 2)]
    runs = [make_run(seed, [value], epochs=1) for seed, value in enumerate(values)]
    runs += [make_run(seed, [value - 0.0001 * (seed % 2)], epochs=1, norm="none") for seed, value in enumerate(values)]
    (line, _) = sentences(read_groups(runs))
    assert "+0.004 points of final test accuracy (95 % interval -0.001 to 0.009, 7 seeds, paired)" in line


def test_several_groups_are_compared_with_the_first(make_run: MakeRun) -> None:
    runs = [
        make_run(seed, [0.9 + rate + seed * rate / 10], epochs=1, **{"optimizer.learning_rate": rate})
        for rate in (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
        for seed in (1, 2)
    ]
    head, *lines = sentences(read_groups(runs))
    assert head == (
        "each group compared with the first (here 4 of 5); the intervals are not corrected for multiple comparisons:"
    )
    assert [line.partition(":")[0] for line in lines] == [f"lr=0.01 - lr=0.0{number}" for number in (2, 3, 4, 5)]
    single = [run for run in runs if run.settings["seed.seed"] == 1]
    assert sentences(read_groups(single)) == []


def test_groups_tested_on_different_images_are_not_compared(make_run: MakeRun) -> None:
    """That is reported, and only groups that were tested on the first one's images are compared with it."""
    about = "Accuracies and losses on different test images cannot be compared (they differ in "
    clothes = [make_run(seed, [0.8, 0.8, 0.8 + seed / 100], dataset="FashionMNIST") for seed in (1, 2)]
    digits = [make_run(seed, [0.9, 0.9, 0.9 + seed / 100]) for seed in (1, 2)]
    assert sentences(read_groups(digits + clothes)) == [f"{about}dataset)."]
    others = [make_run(seed, [0.9, 0.9, 0.9 + seed / 50], norm="none") for seed in (1, 2)]
    first, *more = sentences(read_groups(digits + clothes + others))
    assert first == f"{about}dataset)."
    assert sum("FashionMNIST" in line.partition(": ")[0].partition(" - ")[2] for line in more) == 0
    assert more[0].startswith("each group with the same test images compared with the first; ")
    assert any("no_norm" in line for line in more[1:])
    part = make_run(1, [0.9, 0.9, 0.9], dataset="FashionMNIST", valid_samples=400)
    assert f"{about}dataset and valid_samples)." in sentences(read_groups([*digits, part]))


def test_what_is_left_out_is_said(make_run: MakeRun) -> None:
    runs = [make_run(seed, [0.9, 0.91, 0.92], status="diverged" if seed == 3 else "completed") for seed in range(5)]
    runs += [make_run(seed, [0.8, 0.81][: seed + 1], norm="none") for seed in range(2)]
    left_out, shorter, accuracy, _ = sentences(read_groups(runs))
    assert left_out == "batch_norm: n = 4, 1 diverged"
    assert shorter == "no_norm: averaged over the first 1 of 3 epochs"
    assert "points of final test accuracy after 3 and 1 epochs (" in accuracy


def test_seeds_are_shown(make_run: MakeRun) -> None:
    """Also the default one, if another run has another."""
    rows = rows_of(make_run(5), make_run(7, channels_last=False))
    assert [row[8:] for row in rows] == [["channels_last", "seed"], ["true", "5"], ["false", "7"]]


@pytest.mark.parametrize("lines", [0, 1, 5])
def test_a_run_that_has_just_started(full_run: Path, tmp_path: Path, lines: int) -> None:
    run = another(full_run, tmp_path, "aaaa0000")
    log = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
    (run / "log.jsonl").write_bytes(b"".join(log[: min(lines, 3)]) + b'{"track": {"loss.tr')
    (run / "run_log.jsonl").unlink()
    assert rows_of(read_run(run))[1][1:7] == ["killed", "0/3", "-", "-", "-", "-"]


def test_the_best_epoch_is_the_best_on_held_out_images(full_run: Path, tmp_path: Path) -> None:
    """Its accuracy is that on the test images."""
    run = another(full_run, tmp_path, "aaaa0000")
    rows = rows_of(read_run(run))
    accuracies = [f"{value:.2%}" for _, (value,) in metrics(run)["accuracy.test"]]
    assert rows[1][rows[0].index("best")] == max(accuracies)
    worst = accuracies.index(min(accuracies))
    points = [[1000 * (epoch + 1), [0.9 if epoch == worst else 0.1]] for epoch in range(3)]
    append(run, {"accuracy.held_out": points})
    rows = rows_of(read_run(run))
    assert rows[1][rows[0].index("best")] == min(accuracies)
    assert rows[1][rows[0].index("at epoch")] == str(worst + 1)


def test_impossible_values(make_run: MakeRun) -> None:
    """They are not the best."""
    run = make_run()
    before = rows_of(run)[1]
    points = [[6001 + step, [value]] for step, value in enumerate([1e308, -1e308, 5e-324, float("nan"), 9e200])]
    held_out = {"accuracy.held_out": [[step, [value]] for step, value in enumerate([float("nan"), 2.0, 0.5, 0.9])]}
    append(run.folder, {"loss.test": points, "bn.norm1.running_var": points} | held_out)
    assert rows_of(run)[1] == [*before[:4], *rows_of(run)[1][4:6], "-", before[7]]
    assert rows_of(run)[1][5] == "3"


def append(run: Path, track: dict[str, Any]) -> None:
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"time": 1e308, "elapsed": -1, "track": track}) + "\n")
