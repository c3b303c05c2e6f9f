"""How a command ends: its exit status, and one line on standard error."""

import os
import resource
import subprocess
import sys

import pytest

BEGINNING = """
import os, signal, sys, time
from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import HungUp, StoppedError, Terminated, UsageError, UserError

def main():
    Parser("labml_bn.something", "A command.", hint="a hint; ").parse_args()
    {body}

run_command(main)
"""


def run(body: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", BEGINNING.format(body=body), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("print('done')", 0, ""),
        ("raise UserError('a name\\nwith two lines')", 1, "error: a name with two lines\n"),
        ("raise UsageError('wrong')", 2, "error: wrong\n"),
        ("raise StoppedError('resume with: x', 143)", 143, "interrupted: resume with: x\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("raise Terminated", 143, "interrupted\n"),
        ("raise OSError(28, 'No space left on device')", 1, "error: No space left on device\n"),
        ("raise HungUp", 129, "interrupted\n"),
        ("raise OSError(32, 'Broken pipe')", 1, ""),
        ("raise OSError(5, 'Input/output error')", 1, ""),  # a terminal that was closed
    ],
)
def test_exit_status(body: str, status: int, error: str) -> None:
    done = run(body)
    assert (done.returncode, done.stderr) == (status, error)


def test_wrong_arguments() -> None:
    done = run("pass", "--what")
    assert done.returncode == 2
    assert done.stderr == "error: unrecognized arguments: --what (a hint; see --help)\n"


def test_traceback_on_request() -> None:
    body = "raise UserError('failed')"
    assert "Traceback" not in run(body).stderr
    assert "Traceback" in run(body, "--traceback").stderr


NO_MEMORY = "error: the system gives this process no more memory or threads (--traceback shows what for)\n"


@pytest.mark.parametrize(
    "error",
    [
        "MemoryError",
        "ImportError('libtorch_cpu.so: failed to map segment from shared object')",
        'RuntimeError("can\'t start new thread")',
        'RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can\'t allocate memory: you tried to")',
        "RuntimeError('CUDA out of memory. Tried to allocate 20.00 MiB')",
    ],
)
def test_not_enough_memory(error: str) -> None:
    done = run(f"raise {error}")
    assert (done.returncode, done.stderr) == (1, NO_MEMORY)
    assert "Traceback" in run(f"raise {error}", "--traceback").stderr


def test_not_enough_address_space() -> None:
    """As with `ulimit -v`: PyTorch's libraries alone need more."""
    done = subprocess.run(
        [sys.executable, "-m", "labml_bn.train"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY)),
    )
    assert (done.returncode, done.stderr) == (1, NO_MEMORY)


def test_internal_errors_are_not_hidden() -> None:
    done = run("raise RuntimeError('a mistake')")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: a mistake"


@pytest.mark.parametrize("errors", ["/dev/full", "a pipe"])
def test_errors_that_cannot_be_written(errors: str) -> None:
    """The exit status is the same: with standard error on a full disk, or a pipe whose reader has gone."""
    command = [sys.executable, "-c", BEGINNING.format(body="raise UsageError('wrong')")]
    if errors == "a pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(errors, os.O_WRONLY)
    done = subprocess.run(command, stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 2


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_signal_after_the_end(name: str) -> None:
    """The exit of the interpreter takes a moment: a command that has completed is not interrupted any more."""
    body = f"import atexit; atexit.register(lambda: os.kill(os.getpid(), signal.{name})); print('done')"
    done = run(body)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
