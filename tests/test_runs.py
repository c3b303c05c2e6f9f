"""`python -m labml_bn.runs`, as a user runs it."""

import re
from pathlib import Path

from labml_bn.records.record import read_run
from tests.conftest import Run


def test_list_of_runs(logs: Path, command: Run) -> None:
    (logs / "batch_norm" / "aaaa0000" / "run_log.jsonl").unlink()
    done = command("runs")
    assert done.returncode == 0, done.stderr
    heading, newest, oldest = (re.split(r"  +", line) for line in done.stdout.splitlines())
    assert heading == ["run", "started", "name", "status", "epochs", "accuracy", "time"]
    assert [newest[0], newest[3], newest[4]] == ["bbbb0000", "completed", "1/1"]
    assert newest[2] == "no_norm epochs=1 train_samples=6000 valid_samples=2000 lr=0.01 use_cuda=false"
    tests = read_run(logs / "batch_norm" / "bbbb0000").metrics("accuracy.test")["accuracy.test"]
    assert newest[5] == f"{tests.values[-1, 0]:.2%}"
    assert [oldest[0], oldest[3]] == ["aaaa0000", "killed"]
    assert "there are no runs in elsewhere" in command("runs", "--logs", "elsewhere").stdout
