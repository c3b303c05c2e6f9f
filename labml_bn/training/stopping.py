"""Ctrl-C, and the signals of a system that ends a process (SIGTERM) and of a terminal that is closed (SIGHUP).

`Stop` catches the signal. At the next step `loop.py` saves a checkpoint and raises the interrupt, `tracking.py` records
how the run ended, `run.py` adds how to resume it, and `cli/command.py` prints that and sets the exit status.
"""

import contextlib
import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

from labml_bn.cli.errors import HungUp, Terminated

_INTERRUPTS: dict[int, type[KeyboardInterrupt]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
if hasattr(signal, "SIGHUP"):  # Windows has none
    _INTERRUPTS[signal.SIGHUP] = HungUp


class Stop:
    """Defers SIGINT, SIGTERM and SIGHUP while its block runs, so that the current step can be finished and saved.

    A second signal raises at once, whatever is running; a third kills the process. SIGHUP does not count: the shell and
    the system both send it when a terminal is closed. After the first it is ignored.
    """

    def __init__(self) -> None:
        self._old: dict[int, Any] = {}
        #: The exception to raise as soon as the run can stop, or None if no signal came.
        self.requested: KeyboardInterrupt | None = None

    def __enter__(self) -> "Stop":
        self._old = {number: signal.getsignal(number) for number in _INTERRUPTS}
        self._handle(_INTERRUPTS, self._first)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)

    def _handle(self, numbers: Iterable[int], handler: Any) -> None:
        """Set the handler of these signals, except of those that are ignored, as by `nohup` and in the background."""
        for number in numbers:
            if self._old[number] is not signal.SIG_IGN:
                signal.signal(number, handler)

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.requested = self.requested or _INTERRUPTS[number]()
        if _INTERRUPTS[number] is HungUp:
            signal.signal(number, signal.SIG_IGN)
        else:
            self._handle((signal.SIGINT, signal.SIGTERM), self._second)

    def _second(self, number: int, frame: FrameType | None) -> None:
        self._handle((signal.SIGINT, signal.SIGTERM), signal.SIG_DFL)
        raise _INTERRUPTS[number]


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Within the block, as by `Stop`, a first signal only waits: its interrupt is raised at the end of the block."""
    with Stop() as stop:
        yield
    if stop.requested:
        raise stop.requested
