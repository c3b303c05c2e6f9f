"""The live line: what fits into how many columns, and that nothing of an earlier line is left."""

import contextlib
import fcntl
import io
import os
import pty
import struct
import termios

import pytest

from labml_bn.training import live_line
from labml_bn.training.live_line import LiveLine, erase

#: Most important first.
PARTS = ["epoch 10/10  95%", "accuracy 98.89%, loss 0.0342", "00:03 left", "images/s", "█"]


def line_of(columns: int) -> str:
    """The line of a run in its last epoch, on a terminal with so many columns."""
    line = LiveLine(total=600_000, desc="epoch 10/10", ncols=columns, file=io.StringIO())
    line.set_postfix_str("accuracy 98.89%, loss 0.0342", refresh=False)
    line.n = 570_000
    line.start_t -= 63.0
    line.last_print_t = line.start_t
    text = str(line)
    line.close()
    return text


@pytest.mark.parametrize("columns", range(60, 201))
def test_it_fits(columns: int) -> None:
    text = line_of(columns)
    assert len(text) < columns
    assert text == text.rstrip()
    bar = sum(character in "█░" for character in text)
    assert bar == 0 or bar >= live_line.SHORTEST_BAR - 1


@pytest.mark.parametrize(("columns", "parts"), [(10, 0), (30, 1), (60, 3), (70, 3), (80, 4), (100, 5), (200, 5)])
def test_the_most_important_first(columns: int, parts: int) -> None:
    text = line_of(columns)
    assert [part in text for part in PARTS] == [number < parts for number in range(len(PARTS))]


def test_before_the_first_step() -> None:
    assert str(LiveLine(total=100, desc="epoch 1/2", ncols=80, file=io.StringIO())).startswith("epoch 1/2   0%")


@pytest.mark.parametrize(
    ("drawn", "columns", "up"),
    [(0, 80, 0), (79, 80, 0), (80, 80, 0), (81, 80, 1), (199, 80, 2), (199, 60, 3), (59, 60, 0)],
)
def test_a_wrapped_line_is_erased(drawn: int, columns: int, up: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XTERM_VERSION", "STY"):
        monkeypatch.delenv(name, raising=False)
    assert erase(drawn, columns) == "\r" + up * "\033[K\033[A" + "\033[K"
    monkeypatch.setenv("STY", "1.host")  # a terminal that cuts lines off
    assert erase(drawn, columns) == "\r\033[K"


def test_a_terminal_that_becomes_narrower() -> None:
    ours, its = pty.openpty()

    def resize(columns: int) -> None:
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    with os.fdopen(its, "w") as terminal:
        printed = LiveLine.status_printer(terminal)
        resize(200)
        printed("x" * 199)
        printed("y" * 198)
        resize(80)
        printed("z" * 79)
        resize(120)
        printed("")
    written = ""
    with contextlib.suppress(OSError):  # which ends the output of a terminal that is closed; it may arrive in parts
        while part := os.read(ours, 4096).decode():
            written += part
    os.close(ours)
    erased = "\r\033[K"
    narrower = "\r" + 2 * "\033[K\033[A" + "\033[K"
    assert written == f"{erased}{'x' * 199}{erased}{'y' * 198}{narrower}{'z' * 79}{erased}"
