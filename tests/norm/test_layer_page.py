"""docs/layer.md: its examples run, in their order and in one namespace, and what it links to and names exists."""

import re
import warnings
from collections.abc import Iterator
from inspect import isfunction
from pathlib import Path
from typing import Any

import pytest
import torch

from labml_bn.norm.diagnosis import words
from tests.norm.test_pytorch import anchor

PAGE = Path(__file__).parents[2] / "docs" / "layer.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone, such as `torchrun` would start."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_examples_run() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    blocks = list(re.finditer(r"```python\n(.*?)```", TEXT, flags=re.DOTALL))
    assert len(blocks) >= 9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings inside torch
        for block in blocks:
            # With the lines above it, so that a traceback has the numbers of the page's lines.
            above = "\n" * TEXT.count("\n", 0, block.start(1))
            exec(compile(above + block[1], str(PAGE), "exec"), names)


def test_links() -> None:
    sections = {anchor(heading) for heading in re.findall(r"^## (.*)", TEXT, flags=re.MULTILINE)}
    targets = re.findall(r"\]\(([^)]+)\)", TEXT)
    for target in targets:
        file, _, section = target.partition("#")
        assert target.startswith("https://") or (PAGE.parent / file).exists(), target
        assert file or section in sections, target
    assert sections <= {target.removeprefix("#") for target in targets}  # the table at the top has each section


def test_the_causes_that_diagnose_knows() -> None:
    """The table has all of them and no other. Each is a function of that name, which explains it."""
    known = [name for name, value in vars(words).items() if isfunction(value) and value.__module__ == words.__name__]
    named = re.findall(r"^\| `(\w+)` \|.*\|.*\|$", TEXT, flags=re.MULTILINE)
    assert sorted(named) == sorted(name for name in known if not name.startswith("_"))


def test_every_test_it_names_exists() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", TEXT)
    assert len(named) >= 4
    assert [name for name in named if f"def {name}(" not in tests] == []
