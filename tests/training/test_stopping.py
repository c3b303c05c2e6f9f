"""Signals during a run: the first is deferred, the second acts at once, the third kills; SIGHUP does not count."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from labml_bn.cli.errors import HungUp, Terminated
from labml_bn.training.stopping import Stop

SIGNALS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Ctrl-C and a closed terminal act, even if the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGHUP, before[1])


@pytest.mark.parametrize(("number", "reason"), SIGNALS)
def test_the_first_is_deferred_the_second_acts(number: int, reason: type[KeyboardInterrupt]) -> None:
    with Stop() as stop:
        os.kill(os.getpid(), number)
        assert isinstance(stop.requested, reason)
        with pytest.raises(reason):
            os.kill(os.getpid(), number)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_another_signal_counts_as_the_second() -> None:
    with Stop():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_closed_terminal_does_not_count() -> None:
    """The shell and the system both send SIGHUP, and a system that ends may send SIGTERM besides."""
    with Stop() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
            assert isinstance(stop.requested, HungUp)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert isinstance(stop.requested, HungUp)
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGHUP)  # while the process exits


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_stays_ignored_in_the_background(number: int) -> None:
    """By a shell, or by nohup."""
    signal.signal(number, signal.SIG_IGN)
    with Stop() as stop:
        os.kill(os.getpid(), number)
        assert stop.requested is None
    assert signal.getsignal(number) is signal.SIG_IGN


def test_the_third_kills() -> None:
    code = """
import os, signal
from labml_bn.training.stopping import Stop
with Stop():
    for _ in range(3):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
