"""The command `python -m labml_bn.dashboard`: wrong use, missing packages, empty folders, and what it loads."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from labml_bn import dashboard
from tests.conftest import Run
from tests.dashboard.conftest import Start


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--port", "99999"], 2, "error: --port 99999: a port is a number from 0 to 65535"),
        (["--port", "-1"], 2, "error: --port -1: a port is a number from 0 to 65535"),
        (["--port", "http"], 2, "invalid int value: 'http'"),
        (["--no-browser", "--logs", "file"], 1, "cannot create the folder"),
        (["--logs", "typo"], 1, "error: there is no folder typo"),
        (["somewhere"], 2, "unrecognized arguments: somewhere"),
    ],
)
def test_wrong_use(work: Path, command: Run, arguments: list[str], status: int, message: str) -> None:
    (work / "file").touch()
    done = command("dashboard", *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (status, 1)
    assert message in done.stderr
    assert [path.name for path in work.iterdir()] == ["file"]


def test_a_taken_port(command: Run) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = command("dashboard", "--no-browser", "--port", port)
    assert done.returncode == 1
    assert done.stderr == f"error: cannot open port {port}: Address already in use; choose another with --port\n"


WITHOUT = """
import runpy, sys
sys.modules[sys.argv.pop()] = None
runpy.run_module("labml_bn.dashboard", run_name="__main__")
"""


@pytest.mark.parametrize("package", ["labml_app", "labml_db", "fastapi", "uvicorn", "pydantic", "platformdirs"])
def test_a_missing_package(work: Path, package: str) -> None:
    command = [sys.executable, "-c", WITHOUT, package]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    hint = "pip install 'labml-bn[dashboard]'"
    assert done.stderr == f"error: the dashboard needs packages that are not installed ({package}): {hint}\n"
    assert not (work / "logs").exists()


def test_no_runs_yet(work: Path, start: Start) -> None:
    with start() as dashboard:
        assert dashboard.runs() == []
    assert (work / "logs").is_dir()


def test_in_a_repository_without_commits(work: Path, start: Start) -> None:
    subprocess.run(["git", "init", "-q", str(work)], check=True)
    with start() as dashboard:
        assert dashboard.runs() == []


LOADED = """
import importlib, pkgutil, sys
from pathlib import Path
from labml_bn import dashboard
from labml_bn.dashboard import database, server
from labml_bn.dashboard.address import Address
transaction, _, imported = database.open_with_runs(Path("logs"), restore=False)
assert imported == 1
server.make_app(Address(5005, "token"), Path("logs"), transaction)
for module in pkgutil.iter_modules(dashboard.__path__):
    importlib.import_module(f"labml_bn.dashboard.{module.name}")
print(*sys.modules)
"""


def test_neither_torch_nor_training_is_loaded(run: Path, work: Path, environment: dict[str, str]) -> None:
    """Importing a run and setting up the server, with all modules of the dashboard."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=work, env=environment, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    modules = {path.stem for path in Path(dashboard.__file__).parent.glob("*.py")} - {"__init__"}
    assert len(modules) > 7
    assert loaded >= {f"labml_bn.dashboard.{name}" for name in modules}
    assert not loaded & {
        "matplotlib",
        "torch",
        "torchvision",
        "labml",
        "labml.experiment",
        "labml_helpers",
        "labml_bn.training",
    }
    rooms = {name.split(".")[1] for name in loaded if name.startswith("labml_bn.")}
    assert rooms == {"cli", "dashboard", "records", "settings"}
