"""How OpenMP's threads wait: the user's decision, and the commands'."""

import os
import subprocess
import sys

import pytest

from labml_bn.cli import threads


@pytest.fixture(autouse=True)
def _undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_they_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    threads.let_sleep()
    assert os.environ == {"OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_the_user_decides(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(os, "environ", {name: "7"})
    threads.let_sleep()
    assert os.environ == {name: "7"}


@pytest.mark.parametrize(
    "command",
    [["evaluate", "latest"], ["diagnose", "latest"], ["predict", "latest", "a.png"], ["export", "latest", "a.onnx"]],
)
def test_before_torch_is_imported(command: list[str]) -> None:
    """GNU OpenMP reads the variable when torch is imported: it is set by then."""
    code = f"""
import builtins, os, sys
real = builtins.__import__
def import_(name, *rest, **more):
    if name.partition(".")[0] == "torch":
        print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
        os._exit(0)
    return real(name, *rest, **more)
builtins.__import__ = import_
sys.argv = {command}
from labml_bn.{command[0]} import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "passive\n", done.stderr
