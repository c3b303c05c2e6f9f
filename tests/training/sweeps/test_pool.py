"""Several processes at a time: one that is killed, one that has nothing to resume, and what they print."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from labml_bn.records.record import read_run
from labml_bn.settings import read_grid
from labml_bn.training.sweeps.console import SweepConsole
from labml_bn.training.sweeps.plan import START, Part
from labml_bn.training.sweeps.pool import Pool
from tests.training.sweeps.conftest import runs


@pytest.fixture(autouse=True)
def _in_an_empty_folder(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def parts(arguments: list[str]) -> list[Part]:
    grid = read_grid(arguments)
    return [Part(settings, grid.label(settings), START) for settings in grid.combinations()]


class Console(SweepConsole):
    """Runs a function as soon as images are trained on."""

    def __init__(self, then: Any, runs: int) -> None:
        super().__init__(runs, 0, 1000, 1)
        self._then = then

    def batch(self, images: int) -> None:
        if images:
            self._then()


def test_one_that_is_killed(work: Path, tiny: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """As by the system if there is no memory left: it is noted, and the others go on."""

    def kill_the_long_one() -> None:
        for run in runs(work):
            if read_run(run).status == "running" and read_run(run).settings["epochs"] == 5000:
                os.kill(json.loads((run / "run.pid").read_text()), signal.SIGKILL)

    with Console(kill_the_long_one, 2) as console:
        pool = Pool("s", {}, console, 1, "1")
        pool.train(parts([*tiny, "epochs=5000,1"]))
    assert (pool.diverged, pool.failed) == (0, 1)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "1/2 epochs=5000: killed by signal 9"
    assert lines[1].startswith("2/2 epochs=1: accuracy ")


def test_the_folder_of_a_run_that_never_began(work: Path, tiny: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """It is deleted if it has no metrics; warnings name their run."""
    (part,) = parts(tiny)
    for name, log in (("empty", ""), ("full", "{}\n")):
        folder = work / "logs" / "batch_norm" / name
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text(log)
        with SweepConsole(1, 0, 300, 1) as console:
            pool = Pool("s", {}, console, 1, "1")
            pool.train([Part(part.settings, "x", START, folder)])
        assert (pool.diverged, pool.failed) == (0, 0)
        assert folder.exists() == bool(log)


def test_a_warning_names_its_run(work: Path, tiny: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    def delete_the_log() -> None:
        for run in runs(work):
            (run / "log.jsonl").unlink(missing_ok=True)

    with Console(delete_the_log, 1) as console:
        Pool("s", {}, console, 1, "1").train(parts([*tiny, "epochs=40", "seed=7"])[:1])
    assert "was deleted or replaced by another process" in capfd.readouterr().err


def test_a_signal_ends_all(work: Path, tiny: list[str]) -> None:
    """Those that wait are not begun."""
    before = threading.active_count()
    with (
        Console(lambda: os.kill(os.getpid(), signal.SIGTERM), 3) as console,
        pytest.raises(KeyboardInterrupt),
    ):
        Pool("s", {}, console, 1, "1").train(parts([*tiny, "epochs=5000", "seed=1..3"]))
    assert threading.active_count() <= before + 1
    assert len(runs(work)) == 1
