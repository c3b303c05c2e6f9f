"""The live line on a terminal; the lines of redirected output are tested in tests/test_train.py."""

import re
import sys
from pathlib import Path

from tests.terminal import on_a_terminal
from tests.test_train import SMOKE, setting_of


def test_on_a_terminal(work: Path, environment: dict[str, str], data_path: Path) -> None:
    """A live line with progress, speed and time left, and a line an epoch that stays."""
    command = [sys.executable, "-m", "labml_bn.train", *SMOKE, setting_of(data_path)]
    status, text = on_a_terminal(120, command, work, environment)
    assert status == 0
    assert re.search(r"\r\x1b\[Kepoch 2/2 +\d+%, accuracy \d+\.\d+%, loss .*, \d\d:\d\d left, .* images/s █", text)
    assert re.search(r"epoch 1/2: test loss \d+\.\d+ accuracy \d+\.\d+%", text)
    assert "valid loss" not in text
