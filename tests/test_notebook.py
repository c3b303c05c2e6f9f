"""The notebook: it runs in an empty folder, its stored outputs are its own, and it installs what it should."""

import ast
import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.font_manager
import nbformat
import pytest
from nbformat import NotebookNode

from notebooks import build

SMOKE = {"EPOCHS": 2, "TRAIN_SAMPLES": 3000, "TEST_SAMPLES": 500, "PARTS": 10, "STEPS": 20, "COMPARED": 250}

#: Run after the last cell: what the cells have found, as JSON.
FOUND = """
import json
print(json.dumps({
    "results": results,
    "sorted": sorted_by_class,
    "runs": [{name: series.steps.tolist() for name, series in run_log.items()} for run_log in logs.values()],
    "estimates": {
        name: [log[f"bn.{name}"].values[-1].tolist(), c.model.get_buffer(name).tolist()]
        for name in ("norm1.running_mean", "norm1.running_var", "norm3.running_mean", "norm3.running_var")
    },
}))
"""


@pytest.fixture
def notebook() -> NotebookNode:
    stored: NotebookNode = nbformat.read(build.NOTEBOOK, as_version=4)
    return stored


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: NotebookNode) -> str:
    """What a cell has printed; nothing may have gone to the standard error stream."""
    assert all(output.name == "stdout" for output in cell.outputs if output.output_type == "stream")
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(cell: NotebookNode) -> list[bytes]:
    """The pictures that a cell shows."""
    data = [output.data for output in cell.outputs if output.output_type in {"display_data", "execute_result"}]
    return [base64.b64decode(each["image/png"]) for each in data]


def cell_with(notebook: NotebookNode, text: str) -> NotebookNode:
    (cell,) = (cell for cell in code_cells(notebook) if text in cell.source)
    return cell


def set_parameters(notebook: NotebookNode, values: dict[str, object]) -> None:
    """Put other values into the cell of parameters, which must have exactly these."""
    cell = build.tagged(notebook, "parameters")
    assert re.findall(r"^(\w+) = ", cell.source, flags=re.M) == list(values)
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())


@pytest.mark.slow
def test_executes(
    notebook: NotebookNode, data_path: Path, work: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, in a fresh kernel and an empty folder; and what it finds is what its text says."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(work.parent / name))
    environment["OMP_NUM_THREADS"] = "1"  # threads that wait for one another are slow on a busy machine
    environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # the list of fonts takes a while to make
    set_parameters(notebook, {**SMOKE, "DATA_PATH": str(data_path)})
    cells = code_cells(notebook)
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    found_in = nbformat.v4.new_code_cell(FOUND.strip())
    redrawn = nbformat.v4.new_code_cell("display(with_norm.figure())")
    notebook.cells += [redrawn, found_in]

    build.execute(notebook, work, env=environment)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(cells) + 3))
    assert {path.name for path in work.iterdir()} == {"logs"}

    # One live figure for each training: the last of its pictures stays, and a single line.
    trainings = [cell_with(notebook, "with_norm = Live("), cell_with(notebook, "without_norm = Live(")]
    for cell, name in zip(trainings, ("batch normalization", "no normalization"), strict=True):
        assert len(pictures(cell)) == 1
        (line,) = printed(cell).splitlines()
        assert re.fullmatch(rf"{name}: \d+ of 500 test digits right, \d\d\.\d\d%, in \d+ s", line)
    assert pictures(trainings[0]) == pictures(redrawn)

    # Each run has its own metrics, and only those.
    found: dict[str, Any] = json.loads(printed(found_in))
    normalized, plain = found["runs"]
    common = {f"{metric}.{split}" for metric in ("loss", "accuracy") for split in ("train", "valid", "test")}
    assert plain.keys() == common
    assert normalized.keys() == common | {f"bn.norm{n}.running_{kind}" for n in "123" for kind in ("mean", "var")}
    steps = [3000 * epoch + min(64 * step, 3000) for epoch in (0, 1) for step in range(1, 48)]
    for run in (normalized, plain):
        assert run["loss.train"] == steps
        assert run["loss.test"] == [3000, 6000]
    for logged, state in found["estimates"].values():
        assert logged == pytest.approx(state)

    # A bias before the normalization.
    rows = [line.split() for line in printed(cell_with(notebook, "reference = small_network")).splitlines()[1:]]
    assert [row[0] for row in rows] == ["0", "1", "10", "100", "1000"]
    assert [float(row[1]) for row in rows] == sorted(float(row[1]) for row in rows)
    assert 0 < float(rows[-1][1]) < 1e-3
    assert all(float(of_bias) < 1e-3 * float(of_weight) for *_, of_bias, of_weight in rows)
    learning = cell_with(notebook, "def learn(")
    with_norm, without = re.findall(
        r"differ by at most (\S+), and the bias at 10 moved by at most (\S+)", printed(learning)
    )
    assert all(float(number) < 1e-9 for number in with_norm)
    assert all(float(number) > 1e-2 for number in without)

    # Running and batch statistics.
    evaluated = printed(cell_with(notebook, "results = {}"))
    assert re.search(r"^ +1 +\d\d\.\d\d%  expected more than one value per channel", evaluated, flags=re.M)
    results = found["results"]
    assert list(results) == ["2", "8", "64", "1024"]
    assert len({running for running, _ in results.values()}) == 1
    assert results["2"][1] < results["8"][1] - 0.02
    assert results["64"][1] > results["64"][0] - 0.03
    assert found["sorted"]["running"] == results["64"][0]
    assert found["sorted"]["batch"] < results["64"][1] - 0.1


def test_is_stored_with_its_outputs(notebook: NotebookNode) -> None:
    cells = code_cells(notebook)
    assert notebook.metadata["executed"] == build.checksum(notebook), "run notebooks/build.py after changing a cell"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    silent = [cell for cell in cells if not cell.outputs]
    assert silent == cells[:3]  # installation, parameters, imports
    for cell in cells:
        assert all(output.output_type in {"stream", "display_data"} for output in cell.outputs)
        assert len(printed(cell)) < 2000
        assert len(pictures(cell)) == len(re.findall(r"^plt\.show\(\)|^\w+ = Live\(", cell.source, flags=re.M))


def test_is_fit_to_be_published(notebook: NotebookNode) -> None:
    assert build.NOTEBOOK.stat().st_size < 1_500_000
    for cell in notebook.cells:
        shown = cell.source + (printed(cell) if cell.cell_type == "code" else "")
        assert not re.search(r"/(root|home|tmp|Users|usr|opt|var)/|[A-Z]:\\\\", shown)
        assert str(Path.home()) not in shown
    texts = [re.sub(r"\]\(.*?\)", "", cell.source) for cell in notebook.cells if cell.cell_type == "markdown"]
    assert not re.findall(r"\d *\\?%|\d\.\d", "\n".join(texts)), "what was measured is printed by cells, not written"


def test_uses_the_package_as_anybody_would(notebook: NotebookNode) -> None:
    nodes = [node for cell in code_cells(notebook) for node in ast.walk(ast.parse(cell.source))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    roots = {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names)
    assert roots == {"IPython", "labml_bn", "matplotlib", "numpy", "torch"}
    commands = {
        f"labml_bn.{path.stem}" for path in build.ROOT.glob("labml_bn/*.py") if "run_command(main)" in path.read_text()
    }
    assert commands
    assert not modules & commands
    assert not [node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr.startswith("_")]


def test_the_address_stands_in_one_place(notebook: NotebookNode) -> None:
    """In pyproject.toml: the README's badge and the notebook's first cell have been made from it."""
    repository = build.address((build.ROOT / "pyproject.toml").read_text())
    readme, install = build.README.read_text(), build.tagged(notebook, "install").source
    assert build.address_readme(readme, repository) == readme
    build.address_notebook(notebook, repository)
    assert build.tagged(notebook, "install").source == install

    path = repository.removeprefix("https://github.com/")
    assert readme.count(path) == 1
    assert f"(https://colab.research.google.com/github/{path}/blob/main/notebooks/mnist.ipynb)" in readme
    assert (build.ROOT / "notebooks" / "mnist.ipynb").is_file()
    assert "".join(cell.source for cell in notebook.cells).count(path) == 1


def test_another_address(notebook: NotebookNode) -> None:
    other = build.address('[project.urls]\nRepository = "https://github.com/some-one/some.thing"\n')
    page = "https://colab.research.google.com/github/some-one/some.thing/blob/main/notebooks/mnist.ipynb"
    assert build.address_readme(build.README.read_text(), other).count(page) == 1
    build.address_notebook(notebook, other)
    assert 'REPOSITORY = "https://github.com/some-one/some.thing"\n' in build.tagged(notebook, "install").source
    with pytest.raises(SystemExit, match="OWNER"):
        build.address('Repository = "https://example.org/a/b"')


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the notebook's first cell looks for in a clone of the repository."""
    folder = tmp_path / "clone"
    (folder / "labml_bn" / "norm").mkdir(parents=True)
    (folder / "labml_bn" / "__init__.py").touch()
    (folder / "notebooks").mkdir()
    return folder


def install(notebook: NotebookNode, tmp_path: Path, here: Path, *, missing: bool, then: str = "") -> list[str]:
    """Run the first cell in a process that can or cannot import the project, with a pip that only takes notes.

    Returns the lines that this pip and what is run after the cell print.
    """
    stand_in = tmp_path / "stand-in"
    stand_in.mkdir()
    (stand_in / "pip.py").write_text("import sys; print('pip', *sys.argv[1:])")
    code = f"{build.tagged(notebook, 'install').source}\n{then}"
    done = subprocess.run(
        [sys.executable, *["-S"] * missing, "-c", code],  # -S leaves out whatever is installed
        cwd=here,
        env={"PYTHONPATH": str(stand_in) if missing else f"{stand_in}:{build.ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("here", [".", "clone", "clone/notebooks"])
def test_installs_nothing_where_the_project_is(notebook: NotebookNode, tmp_path: Path, clone: Path, here: str) -> None:
    assert install(notebook, tmp_path, tmp_path / here, missing=False) == []


@pytest.mark.parametrize("here", [".", "notebooks"])
def test_installs_the_clone_that_it_is_in(notebook: NotebookNode, tmp_path: Path, clone: Path, here: str) -> None:
    lines = install(notebook, tmp_path, clone / here, missing=True, then="import labml_bn; print(labml_bn.__file__)")
    assert lines == [f"pip install --quiet -e {clone}", str(clone / "labml_bn" / "__init__.py")]


def test_installs_from_the_repository_elsewhere(notebook: NotebookNode, tmp_path: Path) -> None:
    repository = build.address((build.ROOT / "pyproject.toml").read_text())
    assert install(notebook, tmp_path, tmp_path, missing=True) == [f"pip install --quiet git+{repository}"]
