"""Checkpoints: which are saved and kept, what they restore, and how damaged ones are refused."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from labml_bn.cli.errors import UserError
from labml_bn.records.folder import list_checkpoints
from labml_bn.training import checkpoint
from tests.conftest import Run, metrics, runs


@pytest.fixture
def run(full_run: Path, work: Path) -> Path:
    """A copy of a finished run, to damage."""
    return Path(shutil.copytree(full_run, work / "logs" / "batch_norm" / full_run.name))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def other_version(path: Path) -> None:
    torch.save({**torch.load(path, weights_only=True), "format": "labml_bn checkpoint 0"}, path)


def other_settings(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save({**state, "settings": {**state["settings"], "norm": "unheard of"}}, path)


def non_finite(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["model"]["conv1.weight"][0] = torch.nan
    torch.save(state, path)


def incomplete(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    del state["log"]
    torch.save(state, path)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch evil",)


def code(path: Path) -> None:
    torch.save({**torch.load(path, weights_only=True), "best": Evil()}, path)


@pytest.mark.parametrize(
    "damage", [flipped, truncated, emptied, other_version, other_settings, non_finite, incomplete, code]
)
def test_a_damaged_checkpoint(run: Path, damage: Callable[[Path], None]) -> None:
    """Falls back to the previous one; if there is none, that is reported."""
    newest, *others = list_checkpoints(run)
    damage(newest)
    found = checkpoint.newest(run)
    assert found.state["progress"]["seen"] == int(others[0].stem)
    (complaint,) = found.complaints
    assert str(newest) in complaint
    for other in others:
        damage(other)
    with pytest.raises(UserError, match="has no usable checkpoint: ") as raised:
        checkpoint.newest(run)
    assert "\n" not in str(raised.value)
    assert not Path("evil").exists()


def test_which_checkpoints_are_kept(train: Run, work: Path, small: list[str]) -> None:
    """The newest, and the one with the best accuracy on all test images."""
    assert train(*small, "epochs=5", "keep=1", "optimizer.learning_rate=0.05").returncode == 0
    (run,) = runs(work)
    accuracies = {step: value for step, (value,) in metrics(run)["accuracy.test"]}
    best = next(step for step, value in accuracies.items() if value == max(accuracies.values()))
    kept = [int(path.stem) for path in list_checkpoints(run)]
    assert kept == sorted({5000, best}, reverse=True)


@pytest.mark.parametrize(("interval", "saved"), [("0.5", [0, 512, 1000, 1512, 2000]), ("2", [0, 2000]), ("0.01", None)])
def test_interval(train: Run, work: Path, small: list[str], interval: str, saved: list[int] | None) -> None:
    """In epochs, to the nearest validation; one is saved before the first batch, and one at the end."""
    assert train(*small, "epochs=2", "keep=100", f"checkpoint_interval={interval}").returncode == 0
    (run,) = runs(work)
    kept = sorted(int(path.stem) for path in list_checkpoints(run))
    assert kept == (saved or [0, 256, 512, 768, 1000, 1256, 1512, 1768, 2000])
    for path in list_checkpoints(run):
        state = torch.load(path, weights_only=True)
        log = (run / "log.jsonl").read_bytes()[: state["log"]["size"]]
        assert log == b"" or log.endswith(b"\n")
        covered = [step for line in log.splitlines() for step, _ in json.loads(line)["track"].get("loss.train", [])]
        assert max(covered, default=0) == state["progress"]["seen"]


def test_interval_with_more_validations_than_steps(train: Run, work: Path, small: list[str]) -> None:
    few = [*small, "train_samples=256", "inner_iterations=10", "epochs=2", "keep=100", "checkpoint_interval=0.3"]
    assert train(*few).returncode == 0
    kept = sorted(int(path.stem) for path in list_checkpoints(runs(work)[0]))
    assert kept == [0, 128, 192, 256, 320, 384, 512]  # of 64 images a step: the first after each 0.3 of an epoch


def test_random_states() -> None:
    def draw() -> list[object]:
        return [torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist(), np.random.randn()]

    draw()
    before = checkpoint.random_states()
    drawn = draw()
    checkpoint.set_random_states(before)
    assert draw() == drawn
