"""Write the repository's address where it is needed, and execute the notebook.

    python notebooks/build.py

The address stands in `pyproject.toml`, under `[project.urls]`, and nowhere else is it written by hand: this puts it
into the README's badge and the notebook's first cell. Then it runs the notebook in a kernel of its own, in the
repository's folder, and stores it with its outputs, and with a checksum of what was run.
"""

import hashlib
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
NOTEBOOK = ROOT / "notebooks" / "mnist.ipynb"


def address(pyproject: str) -> str:
    """The address of the repository on GitHub, which is where Colab opens notebooks from."""
    found = re.search(r'^Repository = "(https://github\.com/[^/"]+/[^/"]+)"$', pyproject, flags=re.MULTILINE)
    if not found:
        raise SystemExit('pyproject.toml has no line `Repository = "https://github.com/OWNER/NAME"`')
    return found[1]


def address_readme(readme: str, repository: str) -> str:
    """The README with a badge that opens the notebook of this repository."""
    page = repository.replace("https://github.com/", "https://colab.research.google.com/github/")
    return re.sub(r"https://colab\.research\.google\.com/github/.+?/blob/", lambda _: f"{page}/blob/", readme)


def address_notebook(notebook: NotebookNode, repository: str) -> None:
    """Let the cell that installs the project take it from this repository."""
    cell = tagged(notebook, "install")
    cell.source = re.sub(r'^REPOSITORY = ".*"$', lambda _: f'REPOSITORY = "{repository}"', cell.source, flags=re.M)


def tagged(notebook: NotebookNode, tag: str) -> NotebookNode:
    """The cell that has this tag."""
    cells: list[NotebookNode] = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    (cell,) = cells
    return cell


def checksum(notebook: NotebookNode) -> str:
    """A checksum of the code, by which it can be told whether the outputs are those of the cells."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def execute(notebook: NotebookNode, folder: Path, **environment: object) -> None:
    """Run all cells in a fresh kernel that stands in `folder`. An error in a cell is raised."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,  # nor does git want to know
        coalesce_streams=True,  # what a cell prints is one text, in however many pieces it came
    )
    client.execute(**environment)


def main() -> None:
    """The command."""
    repository = address((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    README.write_text(address_readme(README.read_text(encoding="utf-8"), repository), encoding="utf-8")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    address_notebook(notebook, repository)
    execute(notebook, ROOT)
    notebook.metadata["executed"] = checksum(notebook)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
