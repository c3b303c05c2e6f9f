"""The experiments in the folder, and when the code of one counts as the same."""

import re
from pathlib import Path

import pytest

from experiments.machinery import catalogue
from labml_bn.cli.errors import UsageError

CODE = '''"""Claim 7: it rains.

Source: The weather, page 1.

Measured: what falls.
"""

def measure(trial):
    """What falls."""
    return {"x": 1}  # a comment

def judge(found):
    return []

if __name__ == "__main__":
    pass
'''


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    path = tmp_path / "weather.py"
    path.write_text(CODE)
    return path


def test_every_file_is_found_in_the_order_of_the_claims() -> None:
    found = catalogue.entries()
    numbers = [entry.number for entry in found]
    assert numbers == sorted(set(numbers))
    assert "bias" in [entry.name for entry in found]
    for entry in found:
        assert entry.load().seeds >= 2
        assert re.search("\nRefuted if: ", entry.docstring), f"{entry.name} does not say what would refute it"


def test_what_a_docstring_says(experiment: Path) -> None:
    (entry,) = catalogue.entries()
    assert (entry.name, entry.number, entry.claim, entry.source) == ("weather", 7, "it rains", "The weather, page 1")


@pytest.mark.parametrize("start", ["It rains.", "Claim 7: it rains", "Claim seven: it rains."])
def test_a_docstring_of_another_form(experiment: Path, start: str) -> None:
    experiment.write_text(CODE.replace("Claim 7: it rains.", start))
    with pytest.raises(ValueError, match=r"weather.py: the docstring must begin with 'Claim N: CLAIM.'"):
        catalogue.entries()


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("What falls", "What fell", True),
        ("a comment", "another", True),
        ("return []", "return [1]", True),
        ("page 1", "page 2", True),
        ('{"x": 1}', '{"x": 2}', False),
        ("def judge", "y = 1\ndef judge", False),
    ],
)
def test_code(experiment: Path, old: str, new: str, same: bool) -> None:
    """What does not measure can be changed without measuring again."""
    before = catalogue.find("weather").code()
    experiment.write_text(CODE.replace(old, new))
    assert (catalogue.find("weather").code() == before) == same


@pytest.mark.parametrize("name", ["bais", "biass", "Bias"])
def test_the_nearest_name(name: str) -> None:
    with pytest.raises(UsageError, match=rf"no experiment '{name}': did you mean .*bias"):
        catalogue.find(name)
