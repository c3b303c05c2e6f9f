"""`docs/pytorch.md`, where PyTorch's layer is wrong or refuses: its snippets, run with both layers.

Each snippet imports `BatchNorm` from PyTorch, and computes what is found and what is exact. The page says what
PyTorch's layer gives. With `BatchNorm` from this package, the two must be equal.
"""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs" / "pytorch.md").read_text(encoding="utf-8")


class Snippet(NamedTuple):
    code: str
    version: str  # of PyTorch, such as "2.15"
    result: str  # what the page says it prints, or the error


def snippets() -> list[Any]:
    """The snippets of the page, with the heading that each is under."""
    found = []
    for section in PAGE.split("\n## ")[1:]:
        name = anchor(section.partition("\n")[0])
        blocks = re.findall(r"```python\n(.*?)```\n\n```text\nPyTorch ([\d.]+): (.*?)\n```", section, flags=re.DOTALL)
        found += [pytest.param(Snippet(*block), id=f"{name}-{number}") for number, block in enumerate(blocks, start=1)]
    return found


def anchor(heading: str) -> str:
    """The heading as the target of a link."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


SNIPPETS = snippets()


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    """What a snippet sets for the whole process is reset."""
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings inside of torch
        yield
    torch.set_num_threads(threads)
    torch.compiler.reset()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def run(code: str) -> tuple[float, float]:
    """Run a snippet. Returns what it found, and what is exact."""
    names: dict[str, Any] = {}
    exec(compile(code, "docs/pytorch.md", "exec"), names)
    return float(names["found"]), float(names["exact"])


def right(exact: float) -> Any:
    """What equals the exact result, up to rounding in float32."""
    return pytest.approx(exact, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_this_layer(snippet: Snippet) -> None:
    code, replaced = re.subn(r"from torch\.nn import BatchNorm\dd as", "from labml_bn import", snippet.code)
    code = code.replace("import BatchNorm BatchNorm", "import BatchNorm")
    assert replaced == 1
    found, exact = run(code)
    assert found == right(exact)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_pytorchs_layer(snippet: Snippet, capsys: pytest.CaptureFixture[str]) -> None:
    """PyTorch's layer is wrong or refuses, as the page says. If it is not, the page must be changed."""
    if torch.__version__ < snippet.version:
        pytest.skip(f"the page is about PyTorch {snippet.version}")
    fixed = False
    try:
        found, exact = run(snippet.code)
        fixed, result = found == right(exact), capsys.readouterr().out.strip()
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    if fixed:
        pytest.fail(f"fixed in PyTorch {torch.__version__}: update docs/pytorch.md")
    if torch.__version__.startswith(snippet.version):
        assert is_the_same(result, snippet.result)


def is_the_same(result: str, stated: str) -> bool:
    """Whether a snippet printed what the page states: the same words, and numbers that differ by rounding at most.

    A long error message is cut in the page, and ends with an ellipsis.
    """
    if stated.endswith("..."):
        return result.startswith(stated.removesuffix("...").rstrip())
    number = r"-?\d+\.\d+|nan"
    if re.sub(number, "N", result) != re.sub(number, "N", stated):
        return False
    values, expected = ([float(word) for word in re.findall(number, text)] for text in (result, stated))
    return bool(values == pytest.approx(expected, rel=0.05, nan_ok=True))


def test_the_page_is_compared_as_a_reader_would() -> None:
    assert is_the_same("8.878 instead of 0.500", "8.877 instead of 0.500")
    assert is_the_same("ValueError: one\ntwo", "ValueError: one ...")
    assert is_the_same("nan instead of 1.000", "nan instead of 1.000")
    assert not is_the_same("8.878 instead of 0.500", "1.878 instead of 0.500")
    assert not is_the_same("ValueError: one", "TypeError: one")
    assert not is_the_same("1.000 instead of 1.000", "nan instead of 1.000")


def test_every_snippet_is_run_and_every_row_has_one() -> None:
    assert PAGE.count("```python") == len(SNIPPETS) >= 21
    rows = re.findall(r"^\| \[.*?\]\(#(\S+)\)", PAGE, flags=re.MULTILINE)
    sections = {str(parameter.id).rpartition("-")[0] for parameter in SNIPPETS}
    assert sorted(rows) == sorted(sections)
