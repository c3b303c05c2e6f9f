"""The columns of runs: found by name, and read from a log only as often as it changes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from labml_bn.cli.errors import UsageError
from labml_bn.records.columns import COLUMNS, METRICS, all_columns, find_column, is_missing
from labml_bn.records.record import Record, Series, read_run
from labml_bn.settings import KEYS
from tests.conftest import another


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Record:
    return read_run(another(trained, tmp_path, "aa"))


def value(name: str, run: Record) -> Any:
    return find_column(name, [run]).value(run)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("lr", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("Batch_Size", "train_batch_size"),
        ("epochs", "epochs"),
        ("seed", "seed.seed"),
        *((name, name) for name in ("run", "tags", "accuracy.test", "best.accuracy.held_out")),
    ],
)
def test_names(run: Record, written: str, name: str) -> None:
    column = find_column(written, [run])
    assert column.name == name
    assert isinstance(column.value(run), column.type if column.type is not set else list)


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("acuracy.test", "did you mean accuracy.test or best.accuracy.test"),
        ("lrr", "did you mean lr?"),
        ("tag", "did you mean tags"),
        ("", "columns are settings, metrics, run"),
        ("x" * 10**6, "columns are settings"),
    ],
)
def test_unknown_names(run: Record, written: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"^unknown column '.*{hint}") as caught:
        find_column(written, [run])
    assert len(str(caught.value)) < 200


def test_values(run: Record) -> None:
    tests = run.metrics("accuracy.test")["accuracy.test"]
    assert value("accuracy.test", run) == value("best.accuracy.test", run) == tests.values[-1, 0]
    assert value("loss.train", run) == run.metrics("loss.train")["loss.train"].values[-1, 0]
    assert value("epochs_done", run) == len(tests.steps) == 1
    assert math.isnan(value("accuracy.held_out", run))  # this run has none, and others may have some
    assert value("started", run).timestamp() == run.started
    assert [column.name for column in all_columns([run])] == [
        *COLUMNS,
        *(name for name in METRICS if not name.endswith("held_out")),
    ]
    assert set(KEYS) < set(COLUMNS)


def test_the_log_is_read_again_if_it_has_changed(run: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    metrics = Record.metrics

    def counted(run: Record, *names: str) -> dict[str, Series]:
        reads.append(names)
        return metrics(run, *names)

    monkeypatch.setattr(Record, "metrics", counted)
    for _ in range(3):
        for name in ("accuracy.test", "loss.test", "epochs_done"):
            value(name, run)
    assert len(reads) == 1
    assert set(reads[0]) == {"accuracy.test", "accuracy.held_out", "loss.test", "loss.held_out"}
    with (run.folder / "log.jsonl").open("a") as log:
        log.write(json.dumps({"track": {"accuracy.test": [[12000, [0.25]]], "loss.other": [[12000, [3.0]]]}}) + "\n")
    assert (value("accuracy.test", run), value("epochs_done", run)) == (0.25, 2)
    assert value("loss.other", run) == 3
    assert "loss.other" in {column.name for column in all_columns([run])}
    assert len(reads) == 3
    (run.folder / "log.jsonl").unlink()
    assert math.isnan(value("accuracy.test", run))


@pytest.mark.parametrize(("one", "missing"), [(math.nan, True), ("", True), ([], True), (0, False), (False, False)])
def test_missing(one: Any, missing: bool) -> None:
    assert is_missing(one) == missing
