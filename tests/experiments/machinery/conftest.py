"""The command of the experiments, in a process of its own."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Lab = Callable[..., "subprocess.CompletedProcess[str]"]
BeginLab = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def lab(folder: Path, environment: dict[str, str]) -> Lab:
    """`python -m experiments ARGUMENTS`, in an empty folder."""

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "experiments", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def begin_lab(folder: Path, environment: dict[str, str]) -> Iterator[BeginLab]:
    """Start it, to be ended from outside; at the latest, it ends with the test."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments", *arguments],
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()
