"""The processes of a sweep, each of which trains one run with its share of the cores."""

import json
import os
import signal
import subprocess
import sys
import threading
from queue import SimpleQueue
from typing import IO, Any

#: The environment variable with the number of threads of a process.
THREADS = "OMP_NUM_THREADS"

#: The module that trains one run.
WORKER = "labml_bn.training.sweeps.worker"

#: Seconds in which an interrupted process has ended, if it is not to be killed.
PATIENCE = 10.0


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs(cores: int, runs: int) -> int:
    """How many runs are trained at the same time on so many cores, if the user does not say.

    One on each core: `python -m tests.benchmarks.sweep` compares other numbers. Threads that share a small batch wait
    for each other, and processes do not.
    """
    return max(1, min(cores, runs))


def threads(jobs: int) -> str:
    """The number of threads of each of so many processes: its share of the cores, or what the user has set."""
    return os.environ.get(THREADS) or str(max(1, cores() // jobs))


#: What a process reports: itself; "report", "line" or "end"; and a line of JSON, a line of standard error, or the exit
#: status.
Events = SimpleQueue[tuple["Job", str, Any]]


class Job:
    """A process that trains one run (`worker.py`), or does another task, for which there is a module like that one.

    What it reports is put into `events`; its end is the last.

    It has a session of its own, so Ctrl-C in the terminal does not reach it, but only the process of the sweep, which
    decides. If that ends, however it does, so does the job.
    """

    def __init__(self, task: dict[str, Any], threads: str, events: Events, module: str = WORKER) -> None:
        self._events = events
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, THREADS: threads},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it has already ended
            pass
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        errors = threading.Thread(target=self._pass_on, args=["line", self._process.stderr], daemon=True)
        errors.start()
        self._pass_on("report", self._process.stdout)
        status = self._process.wait()
        errors.join(timeout=5)  # a process that it has started may hold its standard error open
        self._events.put((self, "end", status))

    def _pass_on(self, kind: str, stream: IO[bytes] | None) -> None:
        assert stream is not None
        for line in stream:
            text = line.decode(errors="replace").rstrip("\n")
            self._events.put((self, kind, json.loads(text) if kind == "report" else text))

    def interrupt(self) -> None:
        """Let the run save a checkpoint and end; a second time, without a checkpoint."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Wait until the process has ended; one that does not end is killed."""
        try:
            self._process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
