"""The live line on a terminal; the lines of redirected output are tested in tests/test_train.py."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from tests.test_train import SMOKE, setting_of


def test_on_a_terminal(work: Path, environment: dict[str, str], data_path: Path) -> None:
    """A live line with progress, speed and time left, and a line an epoch that stays."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    command = [sys.executable, "-m", "labml_bn.train", *SMOKE, setting_of(data_path)]
    process = subprocess.Popen(command, cwd=work, env=environment, stdin=its, stdout=its, stderr=its)
    os.close(its)
    output = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other side was closed
            break
        if not chunk:
            break
        output += chunk
    os.close(ours)
    assert process.wait() == 0
    text = output.decode()
    assert re.search(r"\r\x1b\[Kepoch 2/2 +\d+%, accuracy \d+\.\d+%, loss .*, \d\d:\d\d left, .* images/s █", text)
    assert re.search(r"epoch 1/2: test loss \d+\.\d+ accuracy \d+\.\d+%", text)
    assert "valid loss" not in text
