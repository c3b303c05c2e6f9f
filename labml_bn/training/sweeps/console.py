"""What a user sees of a sweep: a line for each run that has ended and, on a terminal, a live line for all of them."""

import contextlib
import sys
import time
from types import TracebackType

from labml_bn.cli.text import duration, printable
from labml_bn.training.live_line import LiveLine, columns

#: With more runs than this, the expected duration of the sweep is printed.
MANY = 100


class SweepConsole(contextlib.AbstractContextManager["SweepConsole"]):
    """Shows the progress of a sweep.

    Arguments:
        runs: how many runs the sweep has
        done: how many of them are complete, or have failed, already
        images: training images in all epochs of the others
        jobs: how many are trained at the same time
    """

    def __init__(self, runs: int, done: int, images: int, jobs: int) -> None:
        self._runs, self._done, self._left, self._jobs = runs, done, runs - done, jobs
        self._images = images
        self._failed = self._ended = 0
        self._started = time.monotonic()
        self._live = sys.stdout.isatty()
        self._line = LiveLine(
            total=images,
            desc=f"{done}/{runs} runs",
            disable=not self._live,
            dynamic_ncols=True,
            leave=False,
            smoothing=0,  # runs begin and end: only the average over all of them tells the time that is left
            file=sys.stdout,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def seen(self, images: int) -> None:
        """A run was resumed that has seen so many images."""
        if self._live:
            self._line.initial += images
            self._line.n += images

    def batch(self, images: int) -> None:
        """So many images were trained on."""
        self._line.update(images)

    def trained(self, label: str, result: str, run: str) -> None:
        """A run is complete: its result, and its folder, of which a narrow terminal shows the beginning of the name."""
        beginning = f"{self._count()} {label}: {result}"
        line = f"{beginning}, {run}"
        if self._live and len(line) >= columns(sys.stdout):
            line = f"{beginning}, {run.rpartition('/')[2][:8]}"
        self._print(line)
        self._estimate()

    def failed(self, label: str, why: str, images: int) -> None:
        """A run has failed, with so many images left to train on."""
        self._failed += 1
        self._images = max(1, self._images - images)
        self._line.total = self._images
        self._line.set_postfix_str(f"{self._failed} failed", refresh=False)
        self._print(f"{self._count()} {label}: {why}")
        self._estimate()

    def warn(self, label: str, line: str) -> None:
        """A run has printed a line on standard error."""
        with self._line.external_write_mode(file=sys.stderr):
            print(printable(f"{label}: {line}"), file=sys.stderr, flush=True)

    def _count(self) -> str:
        self._done += 1
        self._ended += 1
        self._line.set_description_str(f"{self._done}/{self._runs} runs", refresh=False)
        return f"{self._done}/{self._runs}"

    def _estimate(self) -> None:
        if self._ended == self._jobs and self._left > MANY:
            self._print(f"{self._left} runs take about {duration(self.elapsed / self._ended * self._left)}")

    def _print(self, line: str) -> None:
        line = printable(line)
        if self._live:
            room = columns(sys.stdout) - 1
            self._line.write(line if len(line) <= room else f"{line[: room - 3]}...", file=sys.stdout)
        else:
            print(line, flush=True)
