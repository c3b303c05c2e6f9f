"""The diagnosis of a run: which images it is from, and what is written of it."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from labml_bn.cli.errors import UsageError, UserError
from labml_bn.data.mnist import ImageSet
from labml_bn.trained.diagnosing import diagnose_run, save_json
from labml_bn.trained.weights import WEIGHTS, Trained, load_weights


def changed(trained: Trained, **settings: Any) -> Trained:
    return dataclasses.replace(trained, settings={**trained.settings, **settings})


def test_a_run_is_healthy(trained: Path) -> None:
    run = load_weights(trained / WEIGHTS)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    diagnosis, images = diagnose_run(run, batches=50)
    assert diagnosis.healthy, diagnosis
    assert images == "50 batches of 64 training images, 2000 test images"
    assert [layer.name for layer in diagnosis.layers] == ["norm1", "norm2", "norm3"]
    assert {layer.updates for layer in diagnosis.layers} == {94}
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("settings", "batches", "images", "size"),
    [
        ({}, 3, "3 batches of 64 training images", 64),
        ({"train_batch_size": 200, "train_samples": 500}, 50, "2 batches of 200 training images", 200),
        ({"train_batch_size": 60000, "train_samples": 500}, 50, "1 batch of 500 training images", 500),
        ({"train_samples": 300, "held_out": 100}, 50, "4 batches of 64 training images", 64),
    ],
)
def test_training_images(trained: Path, settings: dict[str, Any], batches: int, images: str, size: int) -> None:
    """Full batches of the run's size."""
    diagnosis, words = diagnose_run(changed(load_weights(trained / WEIGHTS), **settings), batches)
    assert words == f"{images}, 2000 test images"
    assert {layer.batch_size for layer in diagnosis.layers} == {size}


def test_a_batch_size_of_someone_else(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch does not need more memory than an evaluation."""
    monkeypatch.setattr("labml_bn.trained.network.MOST_VALUES", 20 * 24 * 24 * 50)
    run = changed(load_weights(trained / WEIGHTS), train_batch_size=6000)
    assert diagnose_run(run, batches=2)[1].startswith("2 batches of 50 training images")


@pytest.mark.parametrize(("population_samples", "distorted"), [(0, True), (1000, False)])
def test_distorted_images(
    trained: Path, monkeypatch: pytest.MonkeyPatch, population_samples: int, distorted: bool
) -> None:
    """As in training, unless the statistics were computed from undistorted images at its end."""
    seen: list[Tensor] = []
    shuffled = ImageSet.shuffled

    def recorded(*arguments: Any, **options: Any) -> Any:
        batches = list(shuffled(*arguments, **options))
        seen.append(batches[0][0])
        return iter(batches)

    monkeypatch.setattr(ImageSet, "shuffled", recorded)
    run = load_weights(trained / WEIGHTS)
    diagnose_run(run, batches=2)
    diagnose_run(changed(run, population_samples=population_samples, **{"augmentation.shift": 3.0}), batches=2)
    assert torch.equal(*seen) != distorted


def test_refused(trained: Path) -> None:
    run = load_weights(trained / WEIGHTS)
    with pytest.raises(UsageError, match="norm=none has no statistics: there is nothing to diagnose"):
        diagnose_run(changed(run, norm="none"), 50)
    with pytest.raises(UserError, match=r"cannot be diagnosed: .* more than one value per channel"):
        diagnose_run(changed(run, train_batch_size=1), 50)


def test_json(trained: Path, work: Path) -> None:
    """All numbers; what JSON does not have is null."""
    run = load_weights(trained / WEIGHTS)
    diagnosis, _ = diagnose_run(run, batches=5)
    layer = dataclasses.replace(diagnosis.layers[0], noise=math.nan, effect=math.inf)
    save_json(dataclasses.replace(diagnosis, layers=(layer, *diagnosis.layers[1:])), work / "diagnosis.json")
    content = json.loads((work / "diagnosis.json").read_text())
    assert content["healthy"] is True
    assert content["findings"] == []
    assert content["outcome"]["running"] == diagnosis.outcome.running
    assert [layer["noise"] for layer in content["layers"]] == [None, *(one.noise for one in diagnosis.layers[1:])]
    assert content["layers"][0]["effect"] is None
    assert content["layers"][0]["from_population"]["mean"] == layer.from_population.mean
    assert [path.name for path in work.iterdir()] == ["diagnosis.json"]
    with pytest.raises(UserError, match=r"cannot write .*: Is a directory"):
        save_json(diagnosis, work)
