"""Output whose reader has gone."""

import os
import pty
import subprocess
import sys

import pytest

from labml_bn.cli.output import report


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_process_goes_on(stream: str) -> None:
    """Lines that nobody reads are discarded, also those that are written at the exit."""
    code = f"""
import sys
from labml_bn.cli.output import continue_without_errors, continue_without_output
continue_without_output()
continue_without_errors()
for line in range(100_000):
    print("line", line, file=sys.{stream}, flush=line < 10)
assert sys.{stream}.isatty() is False
print("done", file=sys.{"stderr" if stream == "stdout" else "stdout"})
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:  # type: ignore[call-overload]
        read, other = process.stdout, process.stderr
        if stream == "stderr":
            read, other = other, read
        assert read.readline() == "line 0\n"
        read.close()
        assert other.read() == "done\n"
    assert process.returncode == 0


CODE = """
import sys
from labml_bn.cli.output import continue_without_errors, continue_without_output
continue_without_output()
continue_without_errors()
for _ in range(3):
    print("x" * 100_000, flush=True)
print("done", file=sys.stderr, flush=True)
"""


def test_a_full_disk_is_reported_once() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run([sys.executable, "-c", CODE], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        both = subprocess.run([sys.executable, "-c", CODE], stdout=full, stderr=full, check=False)
    assert (done.returncode, both.returncode) == (0, 0)
    assert done.stderr == ("warning: cannot write the output: No space left on device; the rest of it is lost\ndone\n")


def test_a_terminal_that_was_closed() -> None:
    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()" + CODE], stdin=subprocess.PIPE, stdout=its, stderr=its
    ) as process:
        os.close(its)
        os.close(ours)
        process.communicate()
    assert process.returncode == 0


def test_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a name has, it is one line, and nothing that a terminal acts on."""
    report("warning: a\x1b[2J\nb\udcff")
    assert capsys.readouterr() == ("", "warning: a\\x1b[2J\\nb\\udcff\n")
