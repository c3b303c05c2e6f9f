"""Tables in aligned columns, and lengths of time."""

import io
import sys
from typing import Any

import pytest

from labml_bn.cli.text import duration, loss, paragraph, printable, table, terminal_width


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (3599.9, "1 h 0 min"), (7260, "2 h 1 min")],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("value", "words"), [(0.03416, "0.0342"), (999_999.0, "999999.0000"), (5.04e32, "5.04e+32")])
def test_loss(value: float, words: str) -> None:
    assert loss(value) == words


def test_a_paragraph() -> None:
    assert paragraph("one two-three four", 13) == "one two-three\n    four"
    assert paragraph("one two-three four", None) == "one two-three four"


ROWS: list[list[Any]] = [
    ["run", "n", "status", "name"],
    ["a", 10, "completed", "one " * 12],
    ["b", 7, "", "two"],
    ["c", 8, "", ""],
]


@pytest.mark.parametrize("width", [25, 30, 40, 60, 70, 80])
def test_a_narrow_table(width: int) -> None:
    """It fits, nothing is lost, and each cell is below its heading."""
    shown = table(ROWS, width)
    assert max(map(len, shown.splitlines())) <= width
    assert shown.split() == table(ROWS).split()
    for value in ("status", "completed"):
        assert shown.count(value) == 1
    lines = shown.splitlines()
    (heading,), (row,) = ([line for line in lines if value in line] for value in ("status", "completed"))
    assert heading.index("status") == row.index("completed")


def test_a_narrow_table_as_text() -> None:
    assert table(ROWS, 30) == (
        "run  n   status\n    name\n"
        "a    10  completed\n    one one one one one one\n    one one one one one one\n"
        "b     7\n    two\n"
        "c     8"
    )
    assert table(ROWS, 54) == (
        "run  n   status     name\n"
        "a    10  completed  one one one one one one one one\n                    one one one one\n"
        "b     7             two\n"
        "c     8"
    )


@pytest.mark.parametrize("width", [None, 80])
def test_a_table_that_fits(width: int | None) -> None:
    assert table([["a", "long name"], ["b", "x" * 70]], width) == "a  long name\nb  " + "x" * 70


@pytest.mark.parametrize(("columns", "width"), [("200", 200), ("80", 80), ("60", 60), ("20", 60)])
def test_terminal_width(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert terminal_width() is None
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert terminal_width() == width


def test_table() -> None:
    assert table([["name", "n"], ["a", 10], ["long", 9]]) == "name  n\na     10\nlong   9"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a run", "a run"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\udcff", r"\udcff"),
        ("\u202eabc", r"\u202eabc"),
        ("ünïcode 数字 🙂", "ünïcode 数字 🙂"),
    ],
)
def test_printable(name: str, written: str) -> None:
    assert printable(name) == written
