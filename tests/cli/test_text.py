"""Tables in aligned columns, and lengths of time."""

import pytest

from labml_bn.cli.text import duration, table


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (3599.9, "1 h 0 min"), (7260, "2 h 1 min")],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_table() -> None:
    assert table([["name", "n"], ["a", 10], ["long", 9]]) == "name  n\na     10\nlong   9"
