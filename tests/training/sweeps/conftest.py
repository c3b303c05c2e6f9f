"""What the tests of sweeps share: the settings of a very short run, and the runs that there are."""

from pathlib import Path

import pytest

from labml_bn.records.folder import LOG, list_runs
from labml_bn.records.record import Record, read_run

#: A run of one short epoch.
TINY = ["epochs=1", "train_samples=300", "valid_samples=100", "inner_iterations=2", "device.use_cuda=false"]


@pytest.fixture
def tiny(data_path: Path) -> list[str]:
    """The settings of a run of one short epoch."""
    return [*TINY, f"data_path={data_path}"]


def runs(work: Path) -> list[Path]:
    """The folders of the runs under `work` that have begun to train, the oldest first."""
    return [run for run in reversed(list_runs(work / "logs")) if (run / LOG).exists()]


def records(work: Path) -> list[Record]:
    """The runs under `work`, the oldest first."""
    return [read_run(run) for run in runs(work)]


def logs(work: Path) -> dict[Path, bytes]:
    """The log of each run under `work`."""
    return {run: (run / "log.jsonl").read_bytes() for run in runs(work)}
