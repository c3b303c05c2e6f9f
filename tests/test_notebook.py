"""The notebook: it runs in an empty folder, its stored outputs match its code, and it installs the package."""

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

SMOKE = {
    "EPOCHS": 2,
    "TRAIN_SAMPLES": 3000,
    "TEST_SAMPLES": 500,
    "VALIDATIONS": 10,
    "STEPS": 20,
    "COMPARISON_SAMPLES": 250,
}

#: A cell that is run after the last one and prints results of the cells as JSON.
RESULTS = """
import json
print(json.dumps({
    "normalized_activations": [
        (value - expected).abs().max().item()
        for value, expected in zip(torch.var_mean(normalized_activations, (0, 2, 3)), (1, 0), strict=True)
    ],
    "learning_rates": [normalized, unnormalized],
    "results": results,
    "sorted": sorted_by_class,
    "runs": [{name: series.steps.tolist() for name, series in run_log.items()} for run_log in logs.values()],
    "running_statistics": {
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
    """What a cell printed to stdout. Output to stderr fails the test."""
    assert all(output.name == "stdout" for output in cell.outputs if output.output_type == "stream")
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(cell: NotebookNode) -> list[bytes]:
    """The PNG images that a cell displays."""
    data = [output.data for output in cell.outputs if output.output_type in {"display_data", "execute_result"}]
    return [base64.b64decode(each["image/png"]) for each in data]


def cell_with(notebook: NotebookNode, text: str) -> NotebookNode:
    (cell,) = (cell for cell in code_cells(notebook) if text in cell.source)
    return cell


def set_parameters(notebook: NotebookNode, values: dict[str, object]) -> None:
    """Replace the values in the parameter cell, which must define exactly these names."""
    cell = build.tagged(notebook, "parameters")
    assert re.findall(r"^(\w+) = ", cell.source, flags=re.M) == list(values)
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())


@pytest.mark.slow
def test_executes(
    notebook: NotebookNode, data_path: Path, work: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The complete notebook runs in a new kernel and an empty folder, and the results support its text."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(work.parent / name))
    environment["OMP_NUM_THREADS"] = "1"  # waiting threads spin, which is slow on a busy machine
    environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # building the font cache takes several seconds
    set_parameters(notebook, {**SMOKE, "DATA_PATH": str(data_path)})
    cells = code_cells(notebook)
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    results_cell = nbformat.v4.new_code_cell(RESULTS.strip())
    plotted_again = nbformat.v4.new_code_cell("display(with_norm.figure())")
    notebook.cells += [plotted_again, results_cell]

    build.execute(notebook, work, env=environment)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(cells) + 3))
    assert {path.name for path in work.iterdir()} == {"logs"}

    # Each run shows one live figure, of which the last version remains, and prints one line.
    runs = [cell_with(notebook, "with_norm = LivePlot("), cell_with(notebook, "without_norm = LivePlot(")]
    for cell, name in zip(runs, ("batch normalization", "no normalization"), strict=True):
        assert len(pictures(cell)) == 1
        (line,) = printed(cell).splitlines()
        assert re.fullmatch(rf"{name}: test accuracy \d\d\.\d\d% \(\d+ of 500\)", line)
    assert pictures(runs[0]) == pictures(plotted_again)

    # Each run has logged its own metrics, and no others.
    found: dict[str, Any] = json.loads(printed(results_cell))
    normalized, plain = found["runs"]
    common = {f"{metric}.{split}" for metric in ("loss", "accuracy") for split in ("train", "valid", "test")}
    assert plain.keys() == common
    assert normalized.keys() == common | {f"bn.norm{n}.running_{kind}" for n in "123" for kind in ("mean", "var")}
    steps = [3000 * epoch + min(64 * step, 3000) for epoch in (0, 1) for step in range(1, 48)]
    for run in (normalized, plain):
        assert run["loss.train"] == steps
        assert run["loss.test"] == [3000, 6000]
    for logged, state in found["running_statistics"].values():
        assert logged == pytest.approx(state)

    # The figures show what their titles and their alternative texts say.
    assert all(error < 1e-3 for error in found["normalized_activations"])
    assert all(one < other for one, other in zip(*found["learning_rates"], strict=True))

    # A bias before batch normalization has no effect.
    rows = [line.split() for line in printed(cell_with(notebook, "reference = small_network")).splitlines()[1:]]
    assert [row[0] for row in rows] == ["0", "1", "10", "100", "1000"]
    assert [float(row[1]) for row in rows] == sorted(float(row[1]) for row in rows)
    assert 0 < float(rows[-1][1]) < 1e-3
    assert all(float(of_bias) < 1e-3 * float(of_weight) for *_, of_bias, of_weight in rows)
    learning = cell_with(notebook, "def learn(")
    with_norm, without = re.findall(
        r"differ by at most (\S+); the bias of 10 changes by at most (\S+)", printed(learning)
    )
    assert all(float(number) < 1e-9 for number in with_norm)
    assert all(float(number) > 1e-2 for number in without)

    # Running statistics give the same accuracy for every batch size; batch statistics do not.
    evaluated = printed(cell_with(notebook, "results = {}"))
    assert re.search(r"^ +1 +\d\d\.\d\d%  ValueError: expected more than one value per channel", evaluated, flags=re.M)
    results = found["results"]
    assert list(results) == ["2", "8", "64", "1024"]
    assert len({running for running, _ in results.values()}) == 1
    assert results["2"][1] < results["8"][1] - 0.02
    assert results["64"][1] > results["64"][0] - 0.03
    assert found["sorted"]["running"] == results["64"][0]
    assert found["sorted"]["batch"] < results["64"][1] - 0.1


def test_stored_outputs_match_the_code(notebook: NotebookNode) -> None:
    cells = code_cells(notebook)
    assert notebook.metadata["executed"] == build.checksum(notebook), "run notebooks/build.py after changing a cell"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    without_output = [cell for cell in cells if not cell.outputs]
    assert without_output == cells[:3]  # installation, parameters, imports
    for cell in cells:
        assert all(output.output_type in {"stream", "display_data"} for output in cell.outputs)
        assert len(printed(cell)) < 2000
        assert len(pictures(cell)) == len(re.findall(r"^show\(|^\w+ = LivePlot\(", cell.source, flags=re.M))


def test_every_image_has_an_alternative_text(notebook: NotebookNode) -> None:
    outputs = [
        output for cell in code_cells(notebook) for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    texts = [output.metadata.get("image/png", {}).get("alt", "") for output in outputs]
    assert len(texts) > 5
    for text in texts:
        assert len(text.split()) > 10
        assert re.fullmatch(r"[A-Z].*[^.]\.", text), "one sentence"
    assert len(set(texts)) == len(texts)


def test_contains_no_local_paths_and_no_measured_values(notebook: NotebookNode) -> None:
    assert build.NOTEBOOK.stat().st_size < 1_500_000
    for cell in notebook.cells:
        shown = cell.source + (printed(cell) if cell.cell_type == "code" else "")
        assert not re.search(r"/(root|home|tmp|Users|usr|opt|var)/|[A-Z]:\\\\", shown)
        assert str(Path.home()) not in shown
        assert not re.search(r"\d (ms|s|seconds)\b", shown), "times depend on what else the machine does"
    texts = [re.sub(r"\]\(.*?\)", "", cell.source) for cell in notebook.cells if cell.cell_type == "markdown"]
    assert not re.findall(r"\d *\\?%|\d\.\d", "\n".join(texts)), "measured values must be printed by cells"


def test_imports_the_package_only_as_a_user_would(notebook: NotebookNode) -> None:
    nodes = [node for cell in code_cells(notebook) for node in ast.walk(ast.parse(cell.source))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    roots = {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names)
    assert roots == {"labml_bn", "matplotlib", "numpy", "torch"}
    commands = {
        f"labml_bn.{path.stem}" for path in build.ROOT.glob("labml_bn/*.py") if "run_command(main)" in path.read_text()
    }
    assert commands
    assert not modules & commands
    assert not [node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr.startswith("_")]


def test_url_matches_pyproject(notebook: NotebookNode) -> None:
    """The README's badge and the notebook's first cell contain the URL from pyproject.toml, each once."""
    repository = build.repository_url((build.ROOT / "pyproject.toml").read_text())
    readme, install = build.README.read_text(), build.tagged(notebook, "install").source
    assert build.update_readme(readme, repository) == readme
    build.update_notebook(notebook, repository)
    assert build.tagged(notebook, "install").source == install

    path = repository.removeprefix("https://github.com/")
    assert readme.count(path) == 1
    assert f"(https://colab.research.google.com/github/{path}/blob/main/notebooks/mnist.ipynb)" in readme
    assert (build.ROOT / "notebooks" / "mnist.ipynb").is_file()
    assert "".join(cell.source for cell in notebook.cells).count(path) == 1


def test_url_can_be_changed(notebook: NotebookNode) -> None:
    other = build.repository_url('[project.urls]\nRepository = "https://github.com/some-one/some.thing"\n')
    page = "https://colab.research.google.com/github/some-one/some.thing/blob/main/notebooks/mnist.ipynb"
    assert build.update_readme(build.README.read_text(), other).count(page) == 1
    build.update_notebook(notebook, other)
    assert 'REPOSITORY = "https://github.com/some-one/some.thing"\n' in build.tagged(notebook, "install").source
    with pytest.raises(SystemExit, match="OWNER"):
        build.repository_url('Repository = "https://example.org/a/b"')


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files by which the notebook's first cell recognizes a clone of the repository."""
    folder = tmp_path / "clone"
    (folder / "labml_bn" / "norm").mkdir(parents=True)
    (folder / "labml_bn" / "__init__.py").touch()
    (folder / "notebooks").mkdir()
    return folder


def install(notebook: NotebookNode, tmp_path: Path, here: Path, *, missing: bool, then: str = "") -> list[str]:
    """Run the first cell, and then the code `then`, in a process with a fake pip that only prints its arguments.

    If `missing`, the process cannot import the package. Returns the printed lines.
    """
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "pip.py").write_text("import sys; print('pip', *sys.argv[1:])")
    code = f"{build.tagged(notebook, 'install').source}\n{then}"
    done = subprocess.run(
        [sys.executable, *["-S"] * missing, "-c", code],  # -S: without installed packages
        cwd=here,
        env={"PYTHONPATH": str(fake) if missing else f"{fake}:{build.ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("here", [".", "clone", "clone/notebooks"])
def test_installs_nothing_if_importable(notebook: NotebookNode, tmp_path: Path, clone: Path, here: str) -> None:
    assert install(notebook, tmp_path, tmp_path / here, missing=False) == []


@pytest.mark.parametrize("here", [".", "notebooks"])
def test_installs_the_clone_that_contains_it(notebook: NotebookNode, tmp_path: Path, clone: Path, here: str) -> None:
    lines = install(notebook, tmp_path, clone / here, missing=True, then="import labml_bn; print(labml_bn.__file__)")
    assert lines == [f"pip install --quiet -e {clone}", str(clone / "labml_bn" / "__init__.py")]


def test_installs_from_the_repository_without_a_clone(notebook: NotebookNode, tmp_path: Path) -> None:
    repository = build.repository_url((build.ROOT / "pyproject.toml").read_text())
    assert install(notebook, tmp_path, tmp_path, missing=True) == [f"pip install --quiet git+{repository}"]
