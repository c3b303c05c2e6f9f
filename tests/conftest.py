"""What several tests need: the real digits, and the commands run as a user runs them."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labml_bn.mnist_files import ensure_files

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def data_path(pytestconfig: pytest.Config) -> Path:
    """A data folder with the real MNIST, kept between test runs."""
    path = pytestconfig.cache.mkdir("data")
    ensure_files("MNIST", path)
    return path


def _environment(home: Path) -> dict[str, str]:
    home.mkdir()
    return {**os.environ, "HOME": str(home), "COLUMNS": "120"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a command: its home is an empty folder."""
    return _environment(tmp_path / "home")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """An empty folder to stand in."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def command(work: Path, environment: dict[str, str]) -> Run:
    """`python -m labml_bn.NAME ARGUMENTS`, in an empty folder and a process of its own."""

    def run(name: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", f"labml_bn.{name}", *map(str, arguments)]
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def train(command: Run) -> Run:
    """`python -m labml_bn.train ARGUMENTS`."""
    return functools.partial(command, "train")


@pytest.fixture(scope="session")
def trained(data_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, trained for a few seconds. Tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = [
        "epochs=1",
        "train_samples=6000",
        "valid_samples=2000",
        "device.use_cuda=false",
        f"data_path={data_path}",
    ]
    command = [sys.executable, "-m", "labml_bn.train", *arguments]
    subprocess.run(command, cwd=folder, env=_environment(folder / "home"), check=True, capture_output=True)
    (run,) = runs(folder)
    return run


def runs(work: Path) -> list[Path]:
    """The folders of the runs under `work`, oldest first."""
    return sorted((work / "logs" / "batch_norm").glob("[!.]*"), key=lambda run: (run / "run.yaml").stat().st_mtime_ns)


def metrics(run: Path) -> dict[str, list[tuple[int, list[float]]]]:
    """A run's metrics: name to (step, values), in the order in which they were logged."""
    series: dict[str, list[Any]] = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        for name, points in json.loads(line)["track"].items():
            series.setdefault(name, []).extend((step, values) for step, values in points)
    return series
