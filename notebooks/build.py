"""Update the repository's URL in the README and the notebook, and execute the notebook.

    python notebooks/build.py

The URL is defined in `pyproject.toml`, under `[project.urls]`. This script copies it to the README's badge and to the
notebook's first cell. Then it executes the notebook in a new kernel, with the root of the repository as the working
directory, and saves it with its outputs and a checksum of its code.
"""

import hashlib
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from labml_bn.data.download import ensure_files

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
NOTEBOOK = ROOT / "notebooks" / "mnist.ipynb"


def repository_url(pyproject: str) -> str:
    """The URL of the repository, from the text of `pyproject.toml`. Colab opens notebooks from GitHub only."""
    found = re.search(r'^Repository = "(https://github\.com/[^/"]+/[^/"]+)"$', pyproject, flags=re.MULTILINE)
    if not found:
        raise SystemExit('pyproject.toml has no line `Repository = "https://github.com/OWNER/NAME"`')
    return found[1]


def update_readme(readme: str, repository: str) -> str:
    """The README with a badge that opens this repository's notebook in Colab."""
    page = repository.replace("https://github.com/", "https://colab.research.google.com/github/")
    return re.sub(r"https://colab\.research\.google\.com/github/.+?/blob/", lambda _: f"{page}/blob/", readme)


def update_notebook(notebook: NotebookNode, repository: str) -> None:
    """Make the cell that installs the package install it from this repository."""
    cell = tagged(notebook, "install")
    cell.source = re.sub(r'^REPOSITORY = ".*"$', lambda _: f'REPOSITORY = "{repository}"', cell.source, flags=re.M)


def tagged(notebook: NotebookNode, tag: str) -> NotebookNode:
    """The cell with this tag."""
    cells: list[NotebookNode] = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    (cell,) = cells
    return cell


def checksum(notebook: NotebookNode) -> str:
    """A checksum of the code cells, which shows whether the stored outputs were produced by them."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def execute(notebook: NotebookNode, folder: Path, **environment: object) -> None:
    """Run all cells in a new kernel whose working directory is `folder`. Raises CellExecutionError if a cell fails."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,  # timestamps in the metadata would change with every build
        coalesce_streams=True,  # consecutive pieces of printed text become one output
    )
    client.execute(**environment)


def main() -> None:
    """The command."""
    repository = repository_url((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    README.write_text(update_readme(README.read_text(encoding="utf-8"), repository), encoding="utf-8")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    update_notebook(notebook, repository)
    ensure_files("MNIST", ROOT / "data")  # not a part of the outputs
    execute(notebook, ROOT)
    notebook.metadata["executed"] = checksum(notebook)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
