"""Output whose reader has gone."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_process_goes_on(stream: str) -> None:
    """Lines that nobody reads are discarded, also those that are written at the exit."""
    code = f"""
import sys
from labml_bn.cli.output import continue_without_reader
continue_without_reader()
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


def test_other_errors_are_not_hidden() -> None:
    code = """
from labml_bn.cli.output import continue_without_reader
continue_without_reader()
print("x" * 100_000, flush=True)
"""
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode != 0
    assert "No space left on device" in done.stderr
