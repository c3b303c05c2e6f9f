"""The package as it is built and installed: its contents, its metadata, and that it works in any folder."""

import importlib.util
import re
import site
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
import yaml

import labml_bn

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


def files(folder: str, pattern: str = "*") -> set[str]:
    """The files of a folder of the repository, relative to the root, without Python's caches."""
    found = (path for path in (ROOT / folder).rglob(pattern) if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


def test_the_wheel_contains_the_package_and_the_configs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        for config in CONFIGS:
            content = (ROOT / "configs" / f"{config}.yaml").read_bytes()
            assert archive.read(f"labml_bn/configs/{config}.yaml") == content
    assert files("labml_bn", "*.py") <= names
    assert names == files("labml_bn") | {f"labml_bn/{name}" for name in files("configs")}


def test_the_source_distribution_contains_the_sources_only(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("labml_bn", "configs", "tests", "notebooks", "docs"):
        assert files(folder) <= names
    others = {name.split("/")[0] for name in names} - {"labml_bn", "configs", "tests", "notebooks", "docs"}
    assert others - {"experiments"} == {
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "pyproject.toml",
        ".gitignore",
    }


def test_the_wheels_metadata(wheel: Path) -> None:
    metadata = read_metadata(wheel)
    assert metadata["Version"] == labml_bn.__version__
    assert metadata["License-Expression"] == CITATION["license"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata.get_all("Project-URL") == [f"Repository, {CITATION['repository-code']}"]


def read_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        (license_name,) = (name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
        assert archive.read(license_name) == (ROOT / "LICENSE").read_bytes()
        return Parser().parsestr(archive.read(name).decode())


Installed = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def installed(wheel: Path, tmp_path: Path, work: Path, environment: dict[str, str]) -> Installed:
    """Run Python in an empty folder, in a virtual environment in which only the wheel is installed.

    The dependencies are those of the running environment: a .pth file adds its site-packages to sys.path. The .pth
    files in there are not processed, so an editable install of this repository is invisible.
    """
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (python,) = [*venv.glob("bin/python"), *venv.glob("Scripts/python.exe")]
    (packages,) = [*venv.glob("lib/python*/site-packages"), *venv.glob("Lib/site-packages")]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-compile", "--target", str(packages), str(wheel)], check=True)
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    variables = {name: value for name, value in environment.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [str(python), *arguments]
        return subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True, check=False)

    done = run("-c", "import labml_bn; print(labml_bn.__file__)")
    assert done.stdout == f"{packages / 'labml_bn' / '__init__.py'}\n", done.stderr
    return run


def test_the_installed_package_trains_from_a_packaged_config(installed: Installed, work: Path, data_path: Path) -> None:
    done = installed("-m", "labml_bn.train", "smoke", "epochs=1", "device.use_cuda=false", f"data_path={data_path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("MNIST, 2000 images, norm=batch_norm, on cpu\n")
    assert [path.name for path in work.iterdir()] == ["logs"]


def test_the_installed_package_lists_its_configs(installed: Installed) -> None:
    done = installed("-m", "labml_bn.train", "no_such_config")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"configs: {', '.join(CONFIGS)})")


def test_one_version() -> None:
    """It is defined in labml_bn/__init__.py. What cannot import it from there agrees."""
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "labml_bn/__init__.py"
    assert str(CITATION["version"]) == labml_bn.__version__
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert versions[0] == labml_bn.__version__


def test_the_citation() -> None:
    assert CITATION["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= CITATION.keys()
    assert CITATION["repository-code"] == PYPROJECT["project"]["urls"]["Repository"]
    (paper,) = CITATION["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Ioffe", "Szegedy"]
    assert paper["url"].endswith("1502.03167")


def overrides() -> list[str]:
    """The modules for which mypy has other settings."""
    modules = [override["module"] for override in PYPROJECT["tool"]["mypy"]["overrides"]]
    return [name for module in modules for name in ([module] if isinstance(module, str) else module)]


@pytest.mark.parametrize("module", overrides())
def test_mypys_overrides_name_existing_modules(module: str) -> None:
    assert importlib.util.find_spec(module.removesuffix(".*")) is not None
