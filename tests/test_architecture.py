"""Who may know whom, read from the imports; and what importing the package costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "labml_bn"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(module: str) -> set[str]:
    """Every module that `module` imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(module)} - set(sys.stdlib_module_names)


def commands() -> set[str]:
    return {module for module, path in MODULES.items() if "run_command(main)" in path.read_text()}


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("labml_bn.norm")])
def test_the_layer_knows_torch_only(module: str) -> None:
    assert roots(module) <= {"torch", "labml_bn"}
    own = {name for name in imports(module) if name.startswith("labml_bn")}
    assert all(name.startswith("labml_bn.norm") for name in own)


@pytest.mark.parametrize("module", MODULES)
def test_labml_is_met_in_two_places(module: str) -> None:
    if module not in {"labml_bn.configs", "labml_bn.tracking"}:
        assert not roots(module) & {"labml", "labml_helpers"}


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_a_command(module: str) -> None:
    assert commands() == {
        f"labml_bn.{name}"
        for name in ("train", "evaluate", "predict", "export", "compare", "runs", "dashboard.__main__")
    }
    assert not imports(module) & commands()


def test_importing_the_package_is_light() -> None:
    code = "import labml_bn, sys; labml_bn.BatchNorm; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"labml", "labml_helpers", "torchvision", "matplotlib", "numba"}


@pytest.mark.parametrize("module", MODULES)
def test_each_file_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[module].read_text()))
