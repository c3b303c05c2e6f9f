"""Sharing the cores: when the cores are seen to be contended, and that OpenMP's threads then sleep."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from labml_bn.cli import threads
from labml_bn.norm.kernels import openmp
from labml_bn.training import cores
from labml_bn.training.cores import SharedCores

pytestmark = pytest.mark.skipif(
    openmp.find() is None or not cores.seconds_waited(), reason="needs GNU OpenMP and Linux's scheduler statistics"
)


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """How long each thread has waited so far, as the test says; the measurements are quick."""
    seconds = {"1": 5.0, "2": 0.0}
    monkeypatch.setattr(cores, "seconds_waited", seconds.copy)
    monkeypatch.setattr(cores, "INTERVAL", 0.01)
    monkeypatch.setattr(cores, "CALM", 0.05)
    return seconds


def test_contended_while_threads_wait(waited: dict[str, float]) -> None:
    before = threading.active_count()
    with SharedCores() as shared:
        waited["3"] = 0.0  # a thread that has just begun
        assert not shared.contended

        def wait_again() -> bool:
            waited["2"] += 1.0
            return shared.contended

        wait_for(wait_again)
        wait_for(lambda: not shared.contended)
        wait_for(wait_again)
    wait_for(lambda: threading.active_count() == before)


def test_a_short_wait_is_not_contention(waited: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as on an idle machine: 0.03 of the time."""
    measured = 0

    def measure() -> dict[str, float]:
        nonlocal measured
        measured += 1
        return {"1": 5.0 + 0.03 * cores.INTERVAL * measured}

    monkeypatch.setattr(cores, "seconds_waited", measure)
    with SharedCores() as shared:
        wait_for(lambda: measured > 20 or shared.contended)
        assert not shared.contended


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_the_environment_wins(waited: dict[str, float], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    before = threading.active_count()
    with SharedCores():
        assert threading.active_count() == before


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No statistics, or another OpenMP."""
    before = threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr(cores, "_TASKS", tmp_path / "none")
        with SharedCores():
            assert threading.active_count() == before
    monkeypatch.setattr(openmp, "find", lambda: None)
    with SharedCores():
        assert threading.active_count() == before


def test_waiting_for_a_core_is_measured() -> None:
    """Beside a busy process on the same core, a busy thread waits."""
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{core}]); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        waited = []

        def work() -> None:
            os.sched_setaffinity(0, [core])  # of this thread
            name = str(threading.get_native_id())
            before = cores.seconds_waited()[name]
            wait_for_work = time.monotonic() + 60
            while cores.seconds_waited()[name] < before + 0.2 and time.monotonic() < wait_for_work:
                pass
            waited.append(cores.seconds_waited()[name] - before)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        busy.kill()
    assert waited[0] >= 0.2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: OpenMP's threads never spin")
def test_threads_sleep_in_a_crowd() -> None:
    """How often they do in 1000 operations, counted by the system: twice in each.

    Without the crowd the number is 0 on an idle machine, and at most 1700 on a busy one.
    """
    code = """
import threading
from pathlib import Path
import torch
from labml_bn.norm.kernels import openmp
from labml_bn.training import cores

torch.set_num_threads(2)
x = torch.ones(100_000)

def threads():
    return list(Path("/proc/self/task").iterdir())

def sleeps():
    count = 0
    for _ in range(1000):
        x.add_(1)
        sum(range(2000))
    for thread in threads():
        (line,) = [line for line in (thread / "status").read_text().splitlines() if line.startswith("voluntary")]
        count += int(line.split()[1])
    return count

sleeps()
alone = len(threads())
over = threading.Event()
thread = threading.Thread(target=cores._be_a_crowd, args=[openmp.find(), over])
thread.start()
while len(threads()) <= alone + 1:
    pass
start = sleeps()
print(sleeps() - start)
over.set()
thread.join()
while len(threads()) > alone:
    pass
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    assert int(done.stdout) > 1850
