"""`python -m labml_bn.runs`, as a user runs it."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from labml_bn.records.record import read_run
from tests.conftest import Run


def test_list_of_runs(logs: Path, command: Run) -> None:
    (logs / "batch_norm" / "aaaa0000" / "run_log.jsonl").unlink()
    done = command("runs")
    assert done.returncode == 0, done.stderr
    heading, newest, oldest = (re.split(r"  +", line) for line in done.stdout.splitlines())
    assert heading == ["run", "status", "epochs", "accuracy", "time", "started", "name"]
    assert newest[:3] == ["bbbb0000", "completed", "1/1"]
    assert newest[6] == "no_norm epochs=1 train_samples=6000 valid_samples=2000 lr=0.01 use_cuda=false"
    tests = read_run(logs / "batch_norm" / "bbbb0000").metrics("accuracy.test")["accuracy.test"]
    assert newest[3] == f"{tests.values[-1, 0]:.2%}"
    assert oldest[:2] == ["aaaa0000", "killed"]
    assert "there are no runs in elsewhere" in command("runs", "--logs", "elsewhere").stdout


def shown_on_terminal(arguments: list[str], columns: int, work: Path, environment: dict[str, str]) -> list[str]:
    """The lines that a command prints on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {name: value for name, value in environment.items() if name != "COLUMNS"}
    with subprocess.Popen([sys.executable, "-m", *arguments], cwd=work, env=inherited, stdout=theirs) as process:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # Linux's end of file on a terminal
            while part := os.read(ours, 4096):
                text += part
    os.close(ours)
    assert process.returncode == 0
    return text.decode().splitlines()


@pytest.mark.parametrize("command", ["labml_bn.runs", "labml_bn.train --list"])
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_on_a_terminal(logs: Path, work: Path, environment: dict[str, str], command: str, columns: int) -> None:
    """Nothing is wider than the terminal, and nothing is left out."""
    lines = shown_on_terminal(command.split(), columns, work, environment)
    assert max(map(len, lines)) <= columns
    python = [sys.executable, "-m", *command.split()]
    piped = subprocess.run(python, cwd=work, env=environment, capture_output=True, text=True, check=True).stdout
    assert "\n".join(lines).split() == piped.split()
    assert max(map(len, piped.splitlines())) > 120
