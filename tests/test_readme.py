"""The README, and the page about runs: their links lead somewhere, its commands exist, its code runs."""

import ast
import re
from pathlib import Path

import torch
from torch import nn

from labml_bn.settings import read_grid

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RUNS = (ROOT / "docs" / "runs.md").read_text()


def test_links() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target.partition("#")[0]).exists(), target


def test_every_command_is_there() -> None:
    for module in set(re.findall(r"-m labml_bn\.(\w+)", README)):
        files = [ROOT / "labml_bn" / f"{module}.py", ROOT / "labml_bn" / module / "__main__.py"]
        assert any(file.exists() and "run_command(main)" in file.read_text() for file in files), module


def test_train_commands_are_right() -> None:
    for arguments in re.findall(r"labml_bn\.train ([^`#\n]+)", README):
        words = [str(ROOT / word) if word.endswith(".yaml") else word for word in arguments.split()]
        if words[0] in {"--resume", "--like"}:
            read_grid(words[2:])
        elif words != ["--list"]:
            grid = read_grid(words)
            grid.check()
            assert grid.settings or grid.swept


def test_every_test_it_names_is_there() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", README + RUNS)
    assert len(named) > 10
    assert all(f"def {name}(" in tests for name in named)


def test_code_runs() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    names = {"model": model, "batches": [torch.randn(8, 1, 6, 6)]}
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        exec(compile(ast.parse(block), "README.md", "exec"), names)
    assert "small" in names
