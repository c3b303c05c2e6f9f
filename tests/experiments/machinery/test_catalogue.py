from pathlib import Path

import pytest

from experiments.machinery import catalogue
from experiments.machinery.catalogue import Entry
from labml_bn.cli.errors import UsageError

EXPERIMENT = '''"""Claim 99: water is wet.

Source: Someone 2015, §3.
And what it says.

Measured: nothing.

Refuted if: never.
"""

def measure(trial):
    """It measures."""
    return {"wet": 1.0}

def judge(found):
    return []

EXPERIMENT = 8
'''


@pytest.mark.parametrize("entry", catalogue.entries(), ids=lambda entry: entry.name)
def test_every_experiment_has_the_same_form(entry: Entry) -> None:
    """Claim, source, measurement and refutation in the docstring, then the parts in the order of reading."""
    for heading in ("Claim ", "\n\nSource: ", "\n\nMeasured: ", "\n\nRefuted if: "):
        assert heading in entry.docstring
    text = entry.path.read_text()
    places = [text.index(f"\n{part}") for part in ("def measure(", "def judge(", "def draw(", "EXPERIMENT = ")]
    assert places == sorted(places)
    assert text.endswith('\nif __name__ == "__main__":\n    main(__file__)\n')
    assert entry.load().measure.__doc__


def test_claims_have_numbers_of_their_own() -> None:
    numbers = [entry.number for entry in catalogue.entries()]
    assert numbers == sorted(set(numbers))


def test_the_code_is_what_measures(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The texts, the rule and the figure can change without measuring again."""
    entry = catalogue.find("bias")
    path = Path("bias.py")
    monkeypatch.setattr(catalogue, "FOLDER", path.parent)

    def code(text: str) -> str:
        path.write_text(text)
        return entry.code()

    first = code(EXPERIMENT)
    assert (
        code(EXPERIMENT.replace("It measures.", "What it measures.").replace("return []", "return [1]  # rule"))
        == first
    )
    assert code(EXPERIMENT.replace("EXPERIMENT = 8", "EXPERIMENT = 9")) == first
    assert code(EXPERIMENT.replace("1.0", "2.0")) != first


def test_the_docstring_says_what_it_is_about(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    path = Path("water.py")
    monkeypatch.setattr(catalogue, "FOLDER", path.parent)
    path.write_text(EXPERIMENT)
    (entry,) = catalogue.entries()
    assert (entry.name, entry.number, entry.claim) == ("water", 99, "water is wet")
    assert entry.source == "Someone 2015, §3"
    path.write_text('"""Water is wet."""')
    with pytest.raises(ValueError, match=r"water.py: the docstring must begin with 'Claim N: CLAIM.'"):
        catalogue.entries()


def test_another_name_lists_the_nearest() -> None:
    with pytest.raises(UsageError, match="there is no experiment 'biass': did you mean bias"):
        catalogue.find("biass")
    with pytest.raises(UsageError, match=r"did you mean .*bias.*scale"):
        catalogue.find("xyzzy")
