"""What a sweep shows on a terminal, and the estimate for many runs."""

import re
import sys
import time
from pathlib import Path

import pytest

from labml_bn.training.sweeps.console import SweepConsole
from tests.terminal import on_a_terminal


def test_on_a_terminal(work: Path, environment: dict[str, str], tiny: list[str]) -> None:
    """A live line for the sweep, a line that stays for each run, and nothing wider than 80 columns."""
    arguments = [*tiny, "optimizer.optimizer=SGD", "norm=none", "lr=1e6,0.01", "--jobs", "1"]
    _, text = on_a_terminal(80, [sys.executable, "-m", "labml_bn.train", *arguments], work, environment)
    assert re.search(r"\r\x1b\[K0/2 runs +\d+%", text)
    assert re.search(r"\r\x1b\[K1/2 runs +\d+%, 1 failed", text)
    assert re.search(r"1/2 lr=1e\+06: diverged: epoch 1, step \d+: .*\.\.\.\r\n", text)
    assert re.search(r"2/2 lr=0.01: accuracy \d+\.\d+%, loss \d\.\d{4}, \d+\.\d s, \w{8}\r\n", text)
    assert re.search(r"2 runs, 1 diverged in [\d.]+ s\r\n", text)
    for line in re.split(r"[\r\n]+|\x1b\[K", text):
        assert len(line) <= 80, line


def test_many_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """How long they take is printed once, after as many runs as are trained at a time."""
    monkeypatch.setattr(time, "monotonic", iter([0.0, *[100.0] * 10]).__next__)
    shown = SweepConsole(runs=130, done=10, images=1000, jobs=2)
    for number in range(3):
        shown.trained(f"seed={number}", "accuracy 1.00%", "logs/batch_norm/x")
    shown.failed("seed=3", "it failed\x1b[31m", 10)
    assert capsys.readouterr().out == (
        "11/130 seed=0: accuracy 1.00%, logs/batch_norm/x\n"
        "12/130 seed=1: accuracy 1.00%, logs/batch_norm/x\n"
        "120 runs take about 1 h 40 min\n"
        "13/130 seed=2: accuracy 1.00%, logs/batch_norm/x\n"
        "14/130 seed=3: it failed\\x1b[31m\n"
    )


def test_a_hundred_runs_are_not_many(capsys: pytest.CaptureFixture[str]) -> None:
    with SweepConsole(runs=100, done=0, images=1000, jobs=1) as shown:
        shown.seen(5)
        shown.batch(5)
        shown.trained("seed=1", "accuracy 1.00%", "x")
        shown.warn("seed=2", "a warning")
    assert capsys.readouterr() == ("1/100 seed=1: accuracy 1.00%, x\n", "seed=2: a warning\n")
