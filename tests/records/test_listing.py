"""A list of runs: which columns are shown, and how."""

from pathlib import Path

import pytest

from labml_bn.records import notes
from labml_bn.records.listing import chosen, html_table, rows
from labml_bn.records.record import Record, read_runs
from tests.conftest import another


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> list[Record]:
    another(trained, tmp_path, "aaaa0000", "08:00:00")
    another(trained, tmp_path, "bbbb0000", "09:00:00", norm="none", **{"optimizer.learning_rate": 0.01})
    return read_runs(sorted((tmp_path / "batch_norm").iterdir()))


USUAL = ["run", "status", "epochs", "accuracy", "time", "started", "name"]


def test_the_usual_columns(runs: list[Record]) -> None:
    heading, first, second = rows(runs)
    assert heading == USUAL
    assert [first[0], first[-1]] == ["aaaa0000", runs[0].name]
    assert second[:3] == ["bbbb0000", "completed", "1/1"]
    heading, first, second = rows(runs, differing=True)
    assert heading == [*USUAL, "norm", "lr"]
    assert (first[-2:], second[-2:]) == (["batch_norm", "0.001"], ["none", "0.01"])


def test_what_the_user_has_written_is_a_column_if_any_run_has_it(runs: list[Record]) -> None:
    with (runs[0].folder / "run.yaml").open("a") as info:
        info.write("sweep: norm-lr\n")
    notes.write(runs[1].folder, {"tags": ["x", "y"], "note": "first\x1b[2J\nsecond", "name": "mine"})
    heading, first, second = rows(read_runs(run.folder for run in runs))
    assert heading == [*USUAL[:-1], "sweep", "tags", "note", "name"]
    assert (first[6:9], second[6:]) == (["norm-lr", "", ""], ["", "x, y", "first\\x1b[2J\\nsecond", "mine"])


def test_a_note_of_many_pages(runs: list[Record]) -> None:
    notes.write(runs[0].folder, {"note": "page " * 10_000})
    _, (note,) = chosen(read_runs([runs[0].folder]), ["note"])
    assert note == "page " * 100 + "..."


def test_chosen_columns(runs: list[Record]) -> None:
    heading, first, _ = chosen(runs, ["run", "lr", "betas", "channels_last", "accuracy.held_out", "time"])
    assert heading == [
        "run",
        "optimizer.learning_rate",
        "optimizer.betas",
        "channels_last",
        "accuracy.held_out",
        "time",
    ]
    assert first[:5] == ["aaaa0000", "0.001", "[0.9,0.999]", "true", "-"]
    assert first[5].endswith(" s")
    (accuracy, loss), *_ = chosen(runs, ["best.accuracy.test", "loss.test"])[1:]
    assert accuracy.endswith("%")
    assert len(loss) == 6


def test_html() -> None:
    page = html_table([["a"], ["<script>alert(1)</script>"]], ["& more"])
    assert page == (
        "<table><thead><tr><th>a</th></tr></thead>"
        "<tbody><tr><td>&lt;script&gt;alert(1)&lt;/script&gt;</td></tr></tbody></table><p>&amp; more</p>"
    )
