"""Which room imports what, read from the code's imports; what importing costs; and that the tests mirror the code."""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "labml_bn"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}

#: What each room may import, besides itself and the standard library. A name with a dot is a single module of a room.
MAY_IMPORT = {
    "labml_bn": {"norm", "records"},
    "cli": {"yaml"},
    "settings": {"cli", "yaml"},
    "norm": {"torch"},
    "models": {"norm", "torch"},
    "data": {"cli", "numpy", "torch", "PIL", "filelock", "tqdm"},
    "records": {"cli", "settings", "numpy", "matplotlib", "scipy", "pandas", "filelock"},
    "trained": {
        *("norm", "models", "data", "settings", "cli", "records.folder", "records.saved"),
        *("numpy", "torch", "matplotlib", "safetensors", "onnxruntime", "onnxscript"),
    },
    "training": {
        *("norm", "models", "data", "settings", "cli", "records.folder", "records.notes", "records.saved"),
        "records.record",  # what the runs of a sweep have done
        # A run ends by writing its weights, is resumed from its checkpoints, and prints where a dashboard shows it.
        *("trained", "dashboard.address"),
        *("numpy", "torch", "labml", "labml_helpers", "filelock", "tqdm"),
    },
    "dashboard": {
        *("records", "settings", "cli"),
        *("labml_app", "labml_db", "fastapi", "starlette", "pydantic", "uvicorn", "pymongo", "numpy"),
        *("filelock", "platformdirs"),  # the saved copy of the database
    },
}

#: What a single module may import besides.
MODULE_MAY_IMPORT = {
    "labml_bn.norm.kernels.cpu_loops": {"numba", "llvmlite", "numpy"},
    "labml_bn.norm.kernels.cuda": {"triton"},
    "labml_bn.training.live_plot": {"matplotlib", "IPython"},  # imported by notebooks only
}

COMMANDS = {
    f"labml_bn.{name}"
    for name in (
        "__main__",
        "train",
        "evaluate",
        "diagnose",
        "predict",
        "export",
        "compare",
        "runs",
        "dashboard.__main__",
    )
}

#: Modules without a test file of their own, and why.
TESTED_ELSEWHERE = {
    **{
        f"labml_bn.norm.kernels.{name}": "tests/norm/kernels/test_kernels.py has the same cases for every kernel"
        for name in ("reference", "cpu", "cpu_loops", "operators")
    },
    "labml_bn.norm.kernels.loading": "tests/norm/kernels/test_choice.py loads kernels that work and that do not",
    "labml_bn.norm.diagnosis.words": "tests/norm/diagnosis/test_causes.py reads what is said of each cause",
    "labml_bn.norm.kernels.openmp": "tests/training/test_cores.py calls its functions",
}


def imports(module: str) -> set[str]:
    """Every module that `module` imports, anywhere in its code, except for type checking only."""
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


def room(module: str) -> str:
    """The room of a module of this package: a folder, or a file beside the commands."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


@pytest.mark.parametrize("module", sorted(MODULES.keys() - COMMANDS))
def test_who_may_import_whom(module: str) -> None:
    allowed = MAY_IMPORT[room(module)] | MODULE_MAY_IMPORT.get(module, set())
    for name in imports(module):
        if not name.startswith("labml_bn"):
            assert name.split(".")[0] in allowed, f"{module} imports {name}"
        elif name != "labml_bn" and room(name) != room(module):
            short = name.removeprefix("labml_bn.")
            assert room(name) in allowed or short in allowed, f"{module} imports {name}"


def test_every_arrow_goes_down() -> None:
    """No two rooms import each other, not even through others; nor do two modules."""
    rooms: dict[str, set[str]] = {}
    modules: dict[str, set[str]] = {}
    for module in MODULES:
        own = {name for name in imports(module) if name.startswith("labml_bn.")}
        modules[module] = own
        rooms.setdefault(module if module in COMMANDS else room(module), set()).update(
            name if name in COMMANDS else room(name) for name in own if room(name) != room(module)
        )
    rooms["training"] -= {"dashboard"}  # only its address, a module that imports nothing else of this package but cli
    assert {room(name) for name in imports("labml_bn.dashboard.address") if name.startswith("labml_bn")} == {"cli"}
    for graph in (rooms, modules):
        assert_acyclic(graph)


def test_the_map_in_the_readme_has_the_same_arrows() -> None:
    (drawing,) = re.findall(r"```mermaid\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    arrows: set[tuple[str, ...]] = set()
    files: dict[str, list[str]] = {}
    for line in drawing.splitlines()[1:]:
        chain = []
        for group in line.strip().split(" --> "):
            boxes = re.findall(r'(\w+)(?:\["(.+?)(?:<br>[^"]*)?"\])?(?: & |$)', group)
            files |= {box: re.sub(r"\.py|/| ", "", names).split(",") for box, names in boxes if names}
            chain.append([box for box, _ in boxes])
        for one, other in itertools.pairwise(chain):
            arrows |= set(itertools.product(one, other))
    drawn = {(above, below) for one, other in arrows for above in files[one] for below in files[other]}
    undrawn = {"settings", "cli", "labml_bn", "__main__"}
    for module in MODULES:
        for name in imports(module):
            above, below = room(module), room("labml_bn.norm" if name == "labml_bn" else name)
            if name.startswith("labml_bn") and above != below and not {above, below} & undrawn:
                assert (above, below) in drawn, f"{module} imports {name}"
    actual = {(room(module), room(name)) for module in MODULES for name in imports(module) if name in MODULES}
    for from_box, to_box in arrows:
        assert any((above, below) in actual for above in files[from_box] for below in files[to_box])
    assert {file for group in files.values() for file in group} == {room(module) for module in MODULES} - undrawn


def test_every_file_is_listed() -> None:
    """In the table of CONTRIBUTING, in the row of its folder; the commands are in the README."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = dict(re.findall(r"^\| \[`([\w/.]+)`\]\(.*?\) \| (.*) \|$", text, flags=re.MULTILINE))
    for module in MODULES.keys() - COMMANDS - {"labml_bn"}:
        path = MODULES[module].relative_to(PACKAGE)
        if path.name != "__init__.py":
            folder = f"{path.parent}/".replace("norm/kernels", "norm") if path.parent != Path() else path.name
            assert path.parent == Path() or f"`{path.name}`" in rows[folder], path
    assert not [name for name in rows if not (PACKAGE / name).exists() and name not in {"tests/", "experiments/"}]


def assert_acyclic(graph: dict[str, set[str]]) -> None:
    remaining = dict(graph)
    while remaining:
        ground = [name for name, below in remaining.items() if not below & remaining.keys()]
        assert ground, f"these import each other: {sorted(remaining)}"
        for name in ground:
            del remaining[name]


def test_a_cycle_is_noticed() -> None:
    with pytest.raises(AssertionError, match="import each other"):
        assert_acyclic({"a": {"b"}, "b": {"c"}, "c": {"b"}})


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_a_command(module: str) -> None:
    assert {name for name, path in MODULES.items() if "run_command(main)" in path.read_text()} == COMMANDS
    assert not imports(module) & COMMANDS


def test_at_most_ten_entries_beside_the_commands() -> None:
    entries = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    commands = {f"{name.split('.')[1]}.py" for name in COMMANDS}
    assert len(entries - commands) <= 10


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_is_light() -> None:
    assert "torch" not in loaded_by("import labml_bn")
    loaded = loaded_by("import labml_bn; labml_bn.BatchNorm")
    assert "torch" in loaded
    assert not loaded & {"labml", "labml_helpers", "torchvision", "matplotlib", "numba"}


@pytest.mark.parametrize("command", ["runs", "compare"])
def test_reading_runs_needs_neither_torch_nor_labml(command: str) -> None:
    """What the command imports is imported by the rooms that it uses."""
    names = sorted(name for name in imports(f"labml_bn.{command}") if name.startswith("labml_bn"))
    loaded = loaded_by("; ".join(f"import {name}" for name in names))
    assert "labml_bn.records.record" in loaded
    assert not loaded & {"torch", "labml", "labml_helpers", "labml_bn.training", "labml_bn.norm"}
    assert ("matplotlib" in loaded) == (command == "compare")


@pytest.mark.parametrize("module", MODULES)
def test_each_file_says_what_it_is_for(module: str) -> None:
    docstring = ast.get_docstring(ast.parse(MODULES[module].read_text()))
    assert docstring
    assert docstring.splitlines()[0].rstrip().endswith((".", ":"))


@pytest.mark.parametrize("module", MODULES)
def test_the_tests_mirror_the_code(module: str) -> None:
    path = MODULES[module].relative_to(PACKAGE)
    name = {"__main__": "main"}.get(path.stem, path.stem)
    if name == "__init__":
        return  # docstrings and exported names
    exists = (ROOT / "tests" / path.parent / f"test_{name}.py").is_file()
    assert exists != (module in TESTED_ELSEWHERE), f"{module}: a test file of its own, or a reason in TESTED_ELSEWHERE"


#: The files of the laboratory, relative to their folder: each experiment, and what they share.
EXPERIMENTS = sorted(path.relative_to(ROOT / "experiments") for path in (ROOT / "experiments").rglob("*.py"))


def experiment_imports(path: Path) -> set[str]:
    """Every module or name that a file of the laboratory imports."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / "experiments" / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", EXPERIMENTS, ids=str)
def test_experiments_use_the_laboratory_and_no_other_experiment(path: Path) -> None:
    shared = ("experiments.laboratory.", "experiments.machinery.")
    allowed = shared if path.parent.name or path.stem.startswith("_") else (shared[0], "experiments.machinery.command.")
    for name in experiment_imports(path):
        assert not name.startswith("experiments.") or f"{name}.".startswith(allowed), f"{path} imports {name}"
        assert not name.startswith("tests"), f"{path} imports {name}"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=str)
def test_every_experiment_has_a_test(path: Path) -> None:
    if not path.stem.startswith("__"):
        assert (ROOT / "tests" / "experiments" / path.parent / f"test_{path.stem}.py").is_file()
