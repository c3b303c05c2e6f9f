"""The processes of a sweep: their share of the cores, what they report, and how they end."""

import subprocess
import sys
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from labml_bn.records.record import read_run
from labml_bn.settings import read
from labml_bn.training.sweeps import jobs
from labml_bn.training.sweeps.jobs import Job
from tests.training.sweeps.conftest import runs


@pytest.mark.parametrize(("cores", "runs", "count"), [(1, 9, 1), (4, 2, 2), (4, 0, 1)])
def test_the_default_is_no_more_than_the_runs_and_the_cores(cores: int, runs: int, count: int) -> None:
    assert jobs.default_jobs(cores, runs) == count


def test_each_has_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user has decided it."""
    monkeypatch.setattr(jobs, "cores", lambda: 9)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [jobs.threads(count) for count in (1, 4, 20)] == ["9", "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert jobs.threads(20) == "3"


def task(settings: list[str]) -> dict[str, Any]:
    return {"resume": None, "settings": read(settings), "sweep": "s", "written": {}}


def test_what_it_reports(work: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image, and at the end the folder."""
    monkeypatch.chdir(work)
    events: jobs.Events = SimpleQueue()
    job = Job(task(tiny), "1", events)
    received = [events.get(timeout=120)]
    while received[-1][1] != "end":
        received.append(events.get(timeout=120))
    assert received[-1] == (job, "end", 0)
    reports = [content for _, kind, content in received if kind == "report"]
    assert len(reports) == len(received) - 1
    assert reports[0] == {"seen": 0}
    assert sum(report.get("images", 0) for report in reports) == 300
    (run,) = runs(work)
    assert reports[-1] == {"folder": str(run.resolve())}


def test_it_ends_with_the_process_that_has_started_it(work: Path, tiny: list[str], environment: dict[str, str]) -> None:
    """Also if that is killed: the run is saved, as if it were interrupted."""
    code = f"""
import os, signal
from queue import SimpleQueue
from labml_bn.settings import read
from labml_bn.training.sweeps.jobs import Job
events = SimpleQueue()
Job({{"resume": None, "settings": read({[*tiny, "epochs=5000"]!r}), "sweep": "s", "written": {{}}}}, "1", events)
while "images" not in events.get()[2]:
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], cwd=work, env=environment, check=False)
    (run,) = runs(work)
    while read_run(run).status == "running":
        pass
    assert read_run(run).status == "interrupted"


def test_what_goes_wrong(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the last line of standard error."""
    monkeypatch.chdir(work)
    events: jobs.Events = SimpleQueue()
    job = Job({"resume": "nowhere", "settings": {}, "sweep": "s", "written": {}}, "1", events)
    _, kind, line = events.get(timeout=120)
    assert kind == "line"
    assert line.startswith(f"error: there are no runs in {work / 'logs'}")
    assert events.get(timeout=120) == (job, "end", 1)


def test_one_that_does_not_end_is_killed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    monkeypatch.setattr(jobs, "PATIENCE", 0.1)
    monkeypatch.setattr(sys, "executable", str(work / "python"))
    (work / "python").write_text("#!/bin/sh\ntrap '' TERM\necho 'null'\nread -r task\nwhile :; do sleep 1; done\n")
    (work / "python").chmod(0o700)
    events: jobs.Events = SimpleQueue()
    job = Job({}, "1", events)
    assert events.get(timeout=60) == (job, "report", None)
    job.interrupt()
    job.end()
    assert events.get(timeout=60) == (job, "end", -9)
