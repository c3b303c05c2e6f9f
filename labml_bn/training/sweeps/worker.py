"""One run of a sweep, in a process of its own, because labml's state is that of a process.

    python -m labml_bn.training.sweeps.worker

`jobs.py` starts it. Standard input has its task, a line of JSON, and stays open as long as the sweep lives: at its end
the run is interrupted, as by SIGTERM, and can be resumed. Standard output has what happens, in lines of JSON; standard
error is that of `train`.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from labml_bn.cli.command import run_command
from labml_bn.cli.output import Unbroken, discard

if TYPE_CHECKING:
    from labml_bn.training.loop import Evaluation

#: The fewest seconds between two reports of progress.
INTERVAL = 0.2


class Reporter(contextlib.AbstractContextManager["Reporter"]):
    """A watcher (see `loop.Watcher`) that writes how many images were seen, before the run was resumed and since."""

    def __init__(self, output: TextIO, seen: int) -> None:
        self._output = output
        self._images = 0
        self._sent = time.monotonic()
        send(output, seen=seen)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        send(self._output, images=self._images)

    def batch(self, images: int) -> None:
        """Report the progress if it is time."""
        self._images += images
        now = time.monotonic()
        if now - self._sent >= INTERVAL:
            send(self._output, images=self._images)
            self._images, self._sent = 0, now

    def validation(self, epoch: int, step: int, loss: float, accuracy: float, valid: "Evaluation") -> None:
        """Not reported: it is in the run's log."""

    def epoch(self, epoch: int, test: "Evaluation") -> None:
        """Not reported: it is in the run's log."""


def send(output: TextIO, **entries: Any) -> None:
    """Write a line of JSON."""
    output.write(json.dumps(entries) + "\n")
    output.flush()


def train() -> None:
    """Train the run that standard input describes."""
    task = json.loads(sys.stdin.buffer.readline())
    end_with_parent()
    output: Any = Unbroken(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    discard(sys.stdout)  # what a run prints is not for the terminal of the sweep

    from labml_bn.training import run, tracking

    def show(epochs: int, images: int, batch_size: int, seen: int) -> Reporter:
        return Reporter(output, seen)

    try:
        if task["resume"] is not None:
            folder = task["resume"]
            run.resume(folder, {}, show=show)
        else:
            finished = run.start(task["settings"], sweep=task["sweep"], written=task["written"], show=show)
            folder = str(finished.folder)
    except tracking.DivergedError:
        send(output, diverged=True)
        raise
    send(output, folder=folder)


def end_with_parent() -> None:
    """Interrupt this process once standard input is closed, however the process that has started it has ended."""
    threading.Thread(target=_interrupt_at_the_end, daemon=True).start()


def _interrupt_at_the_end() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    run_command(train)
