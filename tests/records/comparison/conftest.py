"""Groups of runs: a real one with other seeds, settings and results."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from labml_bn.records.record import Record, read_run

MakeRun = Callable[..., Record]


def log(run: Path, accuracies: Sequence[float], losses: Sequence[float] | None = None) -> None:
    """Replace a run's log by one test after each epoch of 1000 images."""
    losses = losses or [1 - accuracy for accuracy in accuracies]
    track = {
        "accuracy.test": [[1000 * (epoch + 1), [value]] for epoch, value in enumerate(accuracies)],
        "loss.test": [[1000 * (epoch + 1), [value]] for epoch, value in enumerate(losses)],
    }
    (run / "log.jsonl").write_text(json.dumps({"track": track, "time": 2e9, "elapsed": 60.0}) + "\n")


@pytest.fixture
def make_run(full_run: Path, tmp_path: Path) -> MakeRun:
    """A run of three epochs with these results, or else those of a real run."""
    real = read_run(full_run)
    made: list[Record] = []

    def make(
        seed: int = 5,
        accuracies: Sequence[float] | None = None,
        losses: Sequence[float] | None = None,
        *,
        uuid: str = "",
        started: float = 0,
        status: str = "completed",
        **settings: Any,
    ) -> Record:
        folder = tmp_path / (uuid or f"{len(made):04}aaaa")
        folder.mkdir()
        if accuracies is None:
            shutil.copy(full_run / "log.jsonl", folder)
        else:
            log(folder, accuracies, losses)
        own = {**real.settings, "seed.seed": seed, **settings}
        run = dataclasses.replace(
            real, folder=folder, settings=own, started=started, elapsed=60.0, status=status, notes={}
        )
        made.append(run)
        return run

    return make
