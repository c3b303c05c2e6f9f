"""What several tests need: the real data set, and the commands run as a user runs them."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from labml_bn.data.download import ensure_files
from labml_bn.data.mnist import ImageSet, load

# Tests run four at a time, and processes that each use all cores would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where a test uses several threads, idle ones do not spin

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Begin = Callable[..., "subprocess.Popen[str]"]


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
    """An empty working directory."""
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


@pytest.fixture
def begin(work: Path, environment: dict[str, str]) -> Iterator[Begin]:
    """Start `python -m labml_bn.train ARGUMENTS`, to be ended from outside; at the latest, it ends with the test.

    Ctrl-C and a closed terminal act on it, even if the tests run in a shell's background.
    """

    processes: list[subprocess.Popen[str]] = []

    def interruptible() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def started(*arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "labml_bn.train", *arguments],
            cwd=work,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=interruptible,
        )
        processes.append(process)
        return process

    yield started
    for process in processes:
        process.kill()
        process.wait()


#: A run of three short epochs.
SMALL = ["epochs=3", "train_samples=1000", "valid_samples=500", "inner_iterations=4", "device.use_cuda=false"]


@pytest.fixture
def small(data_path: Path) -> list[str]:
    """The settings of a run of three short epochs."""
    return [*SMALL, f"data_path={data_path}"]


@pytest.fixture(scope="session")
def full_run(data_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run, full_run. Tests copy it before they change it."""
    return _run_of(tmp_path_factory.mktemp("full_run"), *SMALL, f"data_path={data_path}")


@pytest.fixture(scope="session")
def trained(data_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, trained for a few seconds. Tests copy it before they change it."""
    settings = ["epochs=1", "train_samples=6000", "valid_samples=2000", "device.use_cuda=false"]
    return _run_of(tmp_path_factory.mktemp("trained"), *settings, f"data_path={data_path}")


def _run_of(folder: Path, *settings: str) -> Path:
    command = [sys.executable, "-m", "labml_bn.train", *settings]
    subprocess.run(command, cwd=folder, env=_environment(folder / "home"), check=True, capture_output=True)
    (run,) = runs(folder)
    return run


def runs(work: Path) -> list[Path]:
    """The folders of the runs under `work`, oldest first."""

    def started(run: Path) -> int:
        info = run / "run.yaml"  # of a run that is just starting it may not be there yet
        return (info if info.exists() else run).stat().st_mtime_ns

    return sorted((work / "logs" / "batch_norm").glob("[!.]*"), key=started)


def metrics(run: Path) -> dict[str, list[tuple[int, list[float]]]]:
    """A run's metrics: name to (step, values), in the order in which they were logged."""
    series: dict[str, list[Any]] = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        for name, points in json.loads(line)["track"].items():
            series.setdefault(name, []).extend((step, values) for step, values in points)
    return series


def another(run: Path, logs: Path, uuid: str, started: str = "08:00:00", **settings: Any) -> Path:
    """A copy of a run under another uuid, with other settings and another time."""
    copy = Path(shutil.copytree(run, logs / "batch_norm" / uuid))
    info = yaml.safe_load((copy / "run.yaml").read_text())
    (copy / "run.yaml").write_text(yaml.safe_dump({**info, "uuid": uuid, "trial_time": started}))
    configs = yaml.safe_load((copy / "configs.yaml").read_text())
    for key, value in settings.items():
        configs[key]["value"] = value
    (copy / "configs.yaml").write_text(yaml.safe_dump(configs))
    return copy


@pytest.fixture
def logs(trained: Path, work: Path) -> Path:
    """Two runs that differ, the second the newer."""
    another(trained, work / "logs", "aaaa0000", "08:00:00")
    another(trained, work / "logs", "bbbb0000", "09:00:00", norm="none", **{"optimizer.learning_rate": 0.01})
    return work / "logs"


@pytest.fixture(scope="session")
def test_set(data_path: Path) -> ImageSet:
    """The first 200 test images of MNIST."""
    return load("MNIST", data_path, "test", samples=200, device=torch.device("cpu"), dtype=torch.float32)
