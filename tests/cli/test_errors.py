"""Errors of the system become one line for the user."""

import errno
import os
import subprocess
import sys

import pytest

from labml_bn.cli.errors import HungUp, Terminated, UserError, exit_status, is_out_of_memory, os_errors_as, reason


def test_reason() -> None:
    assert reason(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) == "No space left on device"
    assert reason(OSError("without a number")) == "without a number"
    assert reason(MemoryError()) == "Cannot allocate memory"


def test_os_errors_become_user_errors() -> None:
    with pytest.raises(UserError, match=r"^cannot read it: No such file or directory$"), os_errors_as("cannot read it"):
        open("/nowhere/at/all")  # noqa: PTH123, SIM115
    with pytest.raises(KeyError), os_errors_as("cannot read it"):
        raise KeyError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (ImportError("libtorch.so: cannot map file data: Cannot allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ImportError("No module named 'torch'"), False),
    ],
)
def test_is_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_exit_status() -> None:
    assert exit_status(KeyboardInterrupt()) == 130
    assert exit_status(Terminated()) == 143
    assert exit_status(HungUp()) == 129


@pytest.mark.skipif(sys.platform == "win32", reason="no limits")
def test_any_error_with_a_limit_of_the_address_space() -> None:
    """Libraries that get no memory raise errors that do not mention it."""
    ask = "print(is_out_of_memory(ValueError('odd')))"
    code = f"import resource\nfrom labml_bn.cli.errors import is_out_of_memory\n{ask}\n"
    code += f"resource.setrlimit(resource.RLIMIT_AS, (1 << 40, -1))\n{ask}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True"]
