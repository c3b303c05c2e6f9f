"""A logs folder as someone might send it: one good run among hostile ones, and files outside that must not change."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import _environment, runs
from tests.hostile.folders import CHANGES, LAYERS, NAMES

#: A run that takes a second, whose files are small.
TINY = ["epochs=2", "train_samples=200", "valid_samples=100", "inner_iterations=1", f"layers={LAYERS}"]


@pytest.fixture(scope="session")
def tiny(data_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run. Tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("tiny")
    command = [sys.executable, "-m", "labml_bn.train", *TINY, "device.use_cuda=false", f"data_path={data_path}"]
    subprocess.run(command, cwd=folder, env=_environment(folder / "home"), check=True, capture_output=True)
    (run,) = runs(folder)
    return run


@dataclass(frozen=True)
class Received:
    """A working directory whose logs someone else has made. `hostile` has the folder of each run but `good`."""

    work: Path
    environment: dict[str, str]
    good: Path
    hostile: dict[str, Path]

    def outside(self) -> dict[str, tuple[int, bytes]]:
        """What is beside the logs: the time and content of each file."""
        files = [path for path in (self.work / "outside").rglob("*") if path.is_file()]
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture
def received(tiny: Path, tmp_path: Path, data_path: Path) -> Received:
    """Logs with every hostile run, and a good one."""
    work, logs = tmp_path, tmp_path / "logs" / "batch_norm"
    environment = _environment(work / "home")
    (work / "home" / ".labml").mkdir()
    (work / "data").symlink_to(data_path)
    (work / "outside").mkdir()
    for name in ("file", "000000000001.pt", "000000000200.pt"):
        (work / "outside" / name).write_text("of the user")
    good = Path(shutil.copytree(tiny, logs / "good"))
    hostile = {}
    for number, (what, (_, change)) in enumerate(CHANGES.items()):
        hostile[what] = Path(shutil.copytree(tiny, logs / f"{number:04}hostile"))
        change(hostile[what])
    for what, folder in NAMES.items():
        hostile[what] = Path(shutil.copytree(tiny, logs / os.fsdecode(folder)))
    return Received(work, environment, good, hostile)
