"""Running a command on a terminal, as a user does."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path


def on_a_terminal(columns: int, command: Sequence[str], work: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """The exit status of a command, and what it writes to a terminal of so many columns."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    inherited = {name: value for name, value in environment.items() if name != "COLUMNS"}
    with subprocess.Popen(command, cwd=work, env=inherited, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        output = b""
        with contextlib.suppress(OSError):  # Linux's end of file on a terminal
            while part := os.read(ours, 65536):
                output += part
    os.close(ours)
    return process.returncode, output.decode()
