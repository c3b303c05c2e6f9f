"""Ending a training from outside: Ctrl-C, or the signal that a system sends before it turns a process off."""

import signal
from types import FrameType

from labml_bn.errors import Terminated

_REASONS: dict[int, type[KeyboardInterrupt]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


class Stop:
    """Holds SIGINT and SIGTERM back while its block runs, so that the step in hand can be finished and saved.

    A second signal raises at once, whatever is being done; a third kills.
    """

    def __init__(self) -> None:
        self._old: dict[int, object] = {}
        #: What to raise where the training can stop, once somebody has asked for it.
        self.asked: KeyboardInterrupt | None = None

    def __enter__(self) -> "Stop":
        for number in _REASONS:
            self._old[number] = signal.getsignal(number)
            if self._old[number] is not signal.SIG_IGN:  # a shell lets what it runs in the background ignore Ctrl-C
                signal.signal(number, self._first)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.asked = _REASONS[number]()
        for other, handler in self._old.items():
            if handler is not signal.SIG_IGN:
                signal.signal(other, self._second)

    def _second(self, number: int, frame: FrameType | None) -> None:
        for other, handler in self._old.items():
            if handler is not signal.SIG_IGN:
                signal.signal(other, signal.SIG_DFL)
        raise _REASONS[number]
