"""Which experiments there are, and what their docstrings and their code say of them, without running them."""

import ast
import difflib
import hashlib
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labml_bn.cli.errors import UsageError

if TYPE_CHECKING:
    from experiments.laboratory import Experiment

FOLDER = Path(__file__).parents[1]

#: The modules beside the experiments.
_SHARED = {"__init__", "__main__", "laboratory"}

#: What judges and shows the numbers, and does not measure them.
_AFTERWARDS = {"judge", "draw", "EXPERIMENT"}


@dataclass(frozen=True)
class Entry:
    """An experiment: its name, and what its docstring says: the claim's number, the claim, its source, and all."""

    name: str
    number: int
    claim: str
    source: str
    docstring: str

    @property
    def path(self) -> Path:
        """Its file."""
        return FOLDER / f"{self.name}.py"

    def load(self) -> "Experiment":
        """Its parts."""
        experiment: Experiment = importlib.import_module(f"experiments.{self.name}").EXPERIMENT
        return experiment

    def code(self) -> str:
        """A checksum of what measures: of its code without `judge`, `draw`, docstrings and comments."""
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        tree.body = [node for node in tree.body if not _names(node) & _AFTERWARDS and not isinstance(node, ast.If)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        return hashlib.sha256(repr(_structure(tree)).encode()).hexdigest()[:16]


def entries() -> list[Entry]:
    """All experiments, by the numbers of their claims."""
    paths = [path for path in FOLDER.glob("*.py") if path.stem not in _SHARED]
    return sorted(map(_entry, paths), key=lambda entry: entry.number)


def find(name: str) -> Entry:
    """The experiment of this name. Raises UsageError, with the nearest names, if there is none."""
    found = {entry.name: entry for entry in entries()}
    if name not in found:
        nearest = difflib.get_close_matches(name, found, cutoff=0.4) or sorted(found)
        raise UsageError(f"there is no experiment {name!r}: did you mean {' or '.join(nearest)}?")
    return found[name]


def _entry(path: Path) -> Entry:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    claim = re.match(r"Claim (\d+): (.*?)\.\n", docstring)
    source = re.search(r"\n\nSource: (.*?)\.\s", docstring, flags=re.DOTALL)
    if claim is None or source is None:
        raise ValueError(
            f"{path}: the docstring must begin with 'Claim N: CLAIM.', and have a paragraph 'Source: PAPER.'"
        )
    return Entry(path.stem, int(claim[1]), claim[2], " ".join(source[1].split()), docstring)


def _structure(node: Any) -> Any:
    """A syntax tree as nested lists, the same in all versions of Python: later ones add fields, which are empty."""
    if isinstance(node, ast.AST):
        fields = [[name, _structure(value)] for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *fields]
    return [_structure(each) for each in node] if isinstance(node, list) else node


def _names(node: ast.stmt) -> set[str]:
    """What a statement defines."""
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {node.name} if isinstance(node, ast.FunctionDef) else set()
