"""What tracking and the terminal cost of an epoch of the defaults: `python -m tests.benchmarks.tracker`.

The time is gathered in every call of the tracker and of the console during an epoch, with the live line on a terminal.
"""

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from labml_bn.cli.command import run_command
from labml_bn.training import loop, tracking
from labml_bn.training.console import Console
from tests.benchmarks.command import run_part
from tests.benchmarks.measuring import Measurements, Options, Row


class Clock:
    """Gathers the seconds of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def measure(self, owner: Any, *names: str) -> None:
        """Gather the calls of these functions or methods of `owner` from now on."""
        for name in names:
            setattr(owner, name, self._measured(getattr(owner, name)))

    def _measured(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - started

        return call


def measure(options: Options) -> Measurements:
    """One epoch."""
    tracker, console = Clock(), Clock()
    tracker.measure(tracking, "flush", "save_evaluation", "save_running_statistics")
    tracker.measure(tracking.TrainingMetrics, "add", "save")
    console.measure(Console, "batch", "validation", "epoch")
    with tempfile.TemporaryDirectory(dir=".") as folder, _terminal():
        settings = {"epochs": 1, "logs_path": folder, "data_path": str(options.data), "device.use_cuda": False}
        settings |= {"train_samples": 640, "valid_samples": 200} if options.quick else {}
        c = tracking.prepare(settings)
        with tracking.recording(), Console(1, len(c.train_set), c.train_batch_size) as watcher:
            started = time.perf_counter()
            loop.train(c, watcher)
            epoch = time.perf_counter() - started
    against = f"an epoch of {len(c.train_set)} images"
    yield Row("the tracker", against, tracker.seconds / epoch, tracker.seconds, epoch)
    yield Row("the terminal", against, console.seconds / epoch, console.seconds, epoch)


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    """Standard output is a terminal, which somebody reads, while the block runs."""
    reader, writer = os.openpty()
    thread = threading.Thread(target=_read_all, args=[reader], daemon=True)
    thread.start()
    with os.fdopen(writer, "w") as terminal, contextlib.redirect_stdout(terminal):
        assert sys.stdout.isatty()
        yield
    thread.join()
    os.close(reader)


def _read_all(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # how Linux reports that the other end was closed
        while os.read(descriptor, 65_536):
            pass


if __name__ == "__main__":
    run_command(lambda: run_part("tracker", __doc__, measure))
