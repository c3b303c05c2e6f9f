"""Sharing the cores with other processes.

Between two operations the threads of OpenMP wait for work. GNU OpenMP lets them spin for some milliseconds, because
waking a thread takes longer than most operations. On an idle machine that is right: a training step takes twice as long
if they sleep. But once another process needs a core, a spinning thread occupies the core that a working thread waits
for, and training becomes ten times slower, with two processes that train at once twenty times.

So while a run trains, it is measured how long its threads wait for a core. As long as they do, OpenMP's threads sleep
when they have no work.
"""

import contextlib
import ctypes
import os
import threading
from pathlib import Path

from labml_bn.cli import threads
from labml_bn.norm.kernels import openmp

_TASKS = Path("/proc/self/task")
#: Seconds between two measurements.
INTERVAL = 0.25
#: The cores are contended if the threads together wait for so much of the time (0.03 on an idle machine, 0.4 to 1
#: beside a busy process), and until they have not for so many seconds.
CONTENDED, CALM = 0.1, 5.0


class SharedCores(contextlib.AbstractContextManager["SharedCores"]):
    """In the context, the threads of OpenMP sleep instead of spinning while the cores are contended.

    Does nothing where OpenMP is another library than GNU's, the system does not measure the waiting (only Linux does),
    or the user has decided how threads wait (`cli/threads.py`).
    """

    def __init__(self) -> None:
        self._crowd: threading.Event | None = None
        self._over = threading.Event()
        self._library = None if threads.decided() else openmp.find()
        self._watch = threading.Thread(target=self._follow, daemon=True)

    @property
    def contended(self) -> bool:
        """Whether the threads sleep instead of spinning."""
        return self._crowd is not None

    def __enter__(self) -> "SharedCores":
        if self._library is not None and seconds_waited():
            self._watch.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        if self._watch.is_alive():
            self._watch.join()

    def _follow(self) -> None:
        before, calm = seconds_waited(), 0.0
        while not self._over.wait(INTERVAL):
            after = seconds_waited()
            waited = sum(seconds - before.get(thread, 0.0) for thread, seconds in after.items())
            before = after
            calm = 0.0 if waited > CONTENDED * INTERVAL else calm + INTERVAL
            if calm == 0.0 and self._crowd is None:
                self._crowd = threading.Event()
                threading.Thread(target=_be_a_crowd, args=[self._library, self._crowd], daemon=True).start()
            elif calm >= CALM:
                self._disperse()
        self._disperse()

    def _disperse(self) -> None:
        if self._crowd is not None:
            self._crowd.set()
            self._crowd = None


def seconds_waited() -> dict[str, float]:
    """For each thread of this process, how long it has been ready to run, without a core to run on. {} if unknown."""
    waited = {}
    with contextlib.suppress(OSError):
        for task in _TASKS.iterdir():
            with contextlib.suppress(OSError, IndexError):  # a thread that has just ended, a kernel without statistics
                waited[task.name] = int((task / "schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    return waited


def _be_a_crowd(library: ctypes.CDLL, over: threading.Event) -> None:
    """Have more OpenMP threads than there are cores until `over` is set.

    While there are more, GNU OpenMP does not let any of them spin (see its documentation of GOMP_SPINCOUNT), which
    cannot be changed otherwise once the library is loaded. These threads have nothing to do, and end with this one.
    """
    library.GOMP_parallel(library.omp_get_num_threads, None, len(os.sched_getaffinity(0)) + 1, 0)
    over.wait()
