"""Training several runs at a time, each in a process of its own."""

import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from labml_bn.cli.files import relative_path
from labml_bn.cli.text import duration, loss
from labml_bn.records.folder import LOG
from labml_bn.records.record import DIVERGED, read_run
from labml_bn.training.stopping import Stop
from labml_bn.training.sweeps import jobs
from labml_bn.training.sweeps.console import SweepConsole
from labml_bn.training.sweeps.jobs import Job
from labml_bn.training.sweeps.plan import START, Part


class Pool:
    """The processes that train the runs of the sweep `name`, at most `size` at a time, with so many threads each.

    `written` are the first notes of each new run. `diverged` and `failed` count the runs that ended with an error.
    """

    def __init__(self, name: str, written: Mapping[str, Any], console: SweepConsole, size: int, threads: str) -> None:
        self._name, self._written, self._console, self._size, self._threads = name, written, console, size, threads
        self._running: dict[Job, _Running] = {}
        self._events: jobs.Events = SimpleQueue()
        self.diverged = self.failed = 0

    def train(self, parts: Sequence[Part]) -> None:
        """Train these runs. Raises KeyboardInterrupt if a signal ended some of them."""
        waiting, interrupted = deque(parts), False
        try:
            with Stop() as stop:
                while self._running or (waiting and not stop.requested):
                    while waiting and len(self._running) < self._size and not stop.requested:
                        self._begin(waiting.popleft())
                    if stop.requested and not interrupted:
                        interrupted = bool(self._running or waiting)
                        self._interrupt()
                    self._next_event(interrupted)
                if stop.requested and (interrupted or waiting):
                    raise stop.requested
        finally:
            self._interrupt()
            for job in self._running:
                job.end()

    def _interrupt(self) -> None:
        for job in self._running:
            job.interrupt()

    def _begin(self, part: Part) -> None:
        is_new = part.status == START
        if is_new and part.folder is not None:
            _delete_empty(part.folder)
        task = {
            "resume": None if is_new else str(part.folder),
            "settings": part.settings,
            "sweep": self._name,
            "written": dict(self._written),
        }
        self._running[Job(task, self._threads, self._events)] = _Running(part)

    def _next_event(self, interrupted: bool) -> None:
        try:
            job, kind, content = self._events.get(timeout=0.1)
        except Empty:
            return
        running = self._running.get(job)
        if running is None:
            return  # a line of a process that this one has started, and that has outlived it
        if kind == "report":
            running.report(content, self._console)
        elif kind == "line":
            running.line(content, self._console)
        else:
            del self._running[job]
            self._end(running, content, interrupted)

    def _end(self, running: "_Running", status: int, interrupted: bool) -> None:
        label = running.part.label
        if status == 0:
            self._console.trained(label, *_result(Path(running.folder)))
        elif not interrupted:
            self.diverged += running.diverged
            self.failed += not running.diverged
            self._console.failed(label, running.why(status), running.part.images - running.images)


@dataclass
class _Running:
    """A run that is being trained, and what its process has reported."""

    part: Part
    images: int = 0
    folder: str = ""
    diverged: bool = False
    error: str = "it ended without a message"

    def report(self, content: dict[str, Any], console: SweepConsole) -> None:
        """Take a line of its standard output (`worker.py`)."""
        if "seen" in content:
            console.seen(content["seen"])
        console.batch(content.get("images", 0))
        self.images += content.get("seen", 0) + content.get("images", 0)
        self.folder = content.get("folder", self.folder)
        self.diverged = self.diverged or "diverged" in content

    def line(self, line: str, console: SweepConsole) -> None:
        """Take a line of its standard error. Why it has failed is shown when it has ended."""
        if not line:
            return
        self.error = line.removeprefix("error: ")
        if not line.startswith(("error: ", "interrupted")):
            console.warn(self.part.label, line)

    def why(self, status: int) -> str:
        """Why it has ended with this exit status."""
        if status < 0:
            return f"killed by signal {-status}"
        return f"{DIVERGED}: {self.error}" if self.diverged else self.error


def _result(folder: Path) -> tuple[str, str]:
    """What a run has reached, and its folder, as they are printed."""
    record = read_run(folder)
    metrics = record.metrics("accuracy.test", "loss.test")
    words = []
    if "accuracy.test" in metrics:
        words.append(f"accuracy {metrics['accuracy.test'].values[-1, 0]:.2%}")
    if "loss.test" in metrics:
        words.append(f"loss {loss(metrics['loss.test'].values[-1, 0])}")
    return ", ".join([*words, duration(record.elapsed)]), relative_path(folder)


def _delete_empty(folder: Path) -> None:
    """Delete the folder of a run that was killed before its first checkpoint: it has no metrics, and is begun again."""
    log = folder / LOG
    if not (log.exists() and log.stat().st_size) and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
