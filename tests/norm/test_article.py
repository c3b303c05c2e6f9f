"""The modules of `labml_bn.norm` as an article: its examples run, and no equation is repeated."""

import collections
import doctest
import importlib
import pkgutil
import re
from pathlib import Path

from labml_bn import norm

FOLDER = Path(norm.__path__[0])


def test_examples() -> None:
    names = [module.name for module in pkgutil.walk_packages(norm.__path__, "labml_bn.norm.")]
    assert "labml_bn.norm.kernels.reference" in names
    results = {name: doctest.testmod(importlib.import_module(name)) for name in names}
    assert {name: result.failed for name, result in results.items() if result.failed} == {}
    assert results["labml_bn.norm.functional"].attempted >= 7
    assert sum(result.attempted for result in results.values()) >= 17


def equations(text: str) -> list[str]:
    """The displayed equations of a text, without white space. One display may contain several, separated by \\qquad."""
    displays = re.findall(r"\$\$(.+?)\$\$", text, flags=re.DOTALL)
    return [re.sub(r"\s+", "", part) for display in displays for part in display.split(r"\qquad")]


def test_equations_of_a_text() -> None:
    assert equations("$$a = b \\qquad\n  c$$ text $d$ $$e$$") == ["a=b", "c", "e"]


def test_no_equation_is_repeated() -> None:
    counts = collections.Counter(
        equation for path in FOLDER.rglob("*.py") for equation in equations(path.read_text(encoding="utf-8"))
    )
    assert len(counts) >= 15
    assert [equation for equation, count in counts.items() if count > 1] == []


def test_reading_order_names_existing_files() -> None:
    listed = re.findall(r"^\d\. `(\S+\.py)`", norm.__doc__ or "", flags=re.MULTILINE)
    assert len(listed) >= 6
    assert [name for name in listed if not (FOLDER / name).is_file()] == []
