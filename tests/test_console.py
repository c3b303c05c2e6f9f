"""Ctrl-C as the console holds it, and the small formats."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from labml_bn.console import Console, duration, table
from labml_bn.training import Evaluation

RIGHT = Evaluation(0.1, 9, 10)


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Ctrl-C acts, also where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_stays_ignored_in_the_background() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Console(1, 100, 10) as console:
        os.kill(os.getpid(), signal.SIGINT)
        console.batch(10)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize(
    "event",
    [
        lambda console: console.batch(10),
        lambda console: console.validation(1, 1, 0.1, 0.9, RIGHT),
        lambda console: console.epoch(1, RIGHT),
    ],
    ids=["batch", "validation", "epoch"],
)
def test_ctrl_c_is_held_until_the_next_event(event: Callable[[Console], None]) -> None:
    """Whichever comes next: also the last evaluation of all."""
    with Console(1, 100, 10) as console:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            event(console)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with Console(1, 100, 10):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (3599.9, "1 h 0 min"), (7260, "2 h 1 min")],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_table() -> None:
    assert table([["name", "n"], ["a", 10], ["long", 9]]) == "name  n\na     10\nlong   9"
