"""`labml-bn COMMAND`, which is also `python -m labml_bn COMMAND`."""

import subprocess
import sys
from importlib import metadata

import pytest

import labml_bn
from labml_bn.__main__ import COMMANDS


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "labml_bn", *arguments], capture_output=True, text=True, check=False)


def test_the_commands_are_listed() -> None:
    done = call("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_each_is_the_command_of_that_name(name: str) -> None:
    """Its help is that of `python -m labml_bn.COMMAND`, and it has a version."""
    module = [sys.executable, "-m", f"labml_bn.{name}", "--help"]
    alone = subprocess.run(module, capture_output=True, text=True, check=True)
    assert call(name, "--help").stdout == alone.stdout
    assert f"python -m labml_bn.{name}" in alone.stdout
    assert call(name, "--version").stdout == f"labml_bn {labml_bn.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "error: the following arguments are required: COMMAND (see --help)\n"),
        (["trian"], "error: 'trian' is not a command: did you mean train?\n"),
        (["fly"], f"error: 'fly' is not a command: the commands are {', '.join(COMMANDS)}\n"),
    ],
)
def test_wrong_use(arguments: list[str], error: str) -> None:
    done = call(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", error)


def test_a_command_fails_as_it_does_alone() -> None:
    done = call("runs", "--logz", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unrecognized arguments: --logz nowhere (see --help)\n"


def test_version() -> None:
    assert call("--version").stdout == f"labml_bn {labml_bn.__version__}\n"


def test_the_console_script() -> None:
    (script,) = metadata.distribution("labml-bn").entry_points.select(group="console_scripts")
    assert script.name == "labml-bn"
    assert script.load().__module__ == "labml_bn.__main__"
