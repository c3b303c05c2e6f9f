"""Ctrl-C, and the signal with which a system ends a process (SIGTERM).

`Stop` catches the signal. At the next step `loop.py` saves a checkpoint and raises the interrupt, `tracking.py` records
how the run ended, `run.py` adds how to resume it, and `cli/command.py` prints that and sets the exit status.
"""

import signal
from types import FrameType

from labml_bn.cli.errors import Terminated

_INTERRUPTS: dict[int, type[KeyboardInterrupt]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


class Stop:
    """Defers SIGINT and SIGTERM while its block runs, so that the current step can be finished and saved.

    A second signal raises at once, whatever is running; a third kills the process.
    """

    def __init__(self) -> None:
        self._old: dict[int, object] = {}
        #: The exception to raise as soon as the run can stop, or None if no signal came.
        self.requested: KeyboardInterrupt | None = None

    def __enter__(self) -> "Stop":
        for number in _INTERRUPTS:
            self._old[number] = signal.getsignal(number)
            if self._old[number] is not signal.SIG_IGN:  # a shell makes background processes ignore Ctrl-C
                signal.signal(number, self._first)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.requested = _INTERRUPTS[number]()
        for other, handler in self._old.items():
            if handler is not signal.SIG_IGN:
                signal.signal(other, self._second)

    def _second(self, number: int, frame: FrameType | None) -> None:
        for other, handler in self._old.items():
            if handler is not signal.SIG_IGN:
                signal.signal(other, signal.SIG_DFL)
        raise _INTERRUPTS[number]
