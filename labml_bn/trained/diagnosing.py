"""Why a run's network does worse in evaluation than in training: its layers, on its training and its test images."""

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

from torch.nn import functional as F

from labml_bn.cli.errors import UsageError, UserError, os_errors_as
from labml_bn.cli.files import replacing
from labml_bn.data.augmentation import Augmentation
from labml_bn.norm.diagnosis import Diagnosis, diagnose
from labml_bn.trained.network import evaluation_batch_size
from labml_bn.trained.weights import Trained


def diagnose_run(trained: Trained, batches: int) -> tuple[Diagnosis, str]:
    """The diagnosis of a run's network, and in words which images it is from.

    From so many batches of training images, or fewer if there are fewer, as the run trained on them: shuffled,
    distorted, and of its batch size; and all its test images as evaluation data. If the run ended with population
    statistics of undistorted images, these images are not distorted either.

    Raises UsageError for a network without normalization, UserError if it cannot be diagnosed.
    """
    settings = trained.settings
    if settings["norm"] == "none":
        raise UsageError("norm=none has no statistics: there is nothing to diagnose")
    images, test = trained.train_set(), trained.test_set()
    size = min(len(images), evaluation_batch_size({**settings, "valid_batch_size": settings["train_batch_size"]}))
    batches = min(batches, len(images) // size)
    names = ("shift", "rotation", "scale", "shear", "elastic")
    distortion = Augmentation(*(settings[f"augmentation.{name}"] for name in names))
    if settings["population_samples"] > 0:
        distortion = Augmentation()
    shuffled = images.shuffled(size, settings["seed.seed"], epoch=0, augmentation=distortion)
    training = list(itertools.islice(shuffled, batches))
    try:
        diagnosis = diagnose(trained.model, training, evaluation=test.batches(trained.batch_size), loss=F.cross_entropy)
    except ValueError as error:  # such as a batch of one image
        raise UserError(f"cannot be diagnosed: {error}") from error
    number = "1 batch" if batches == 1 else f"{batches} batches"
    return diagnosis, f"{number} of {size} training images, {len(test)} test images"


def save_json(diagnosis: Diagnosis, path: Path) -> None:
    """Write all numbers atomically; NaN and infinity as null. Raises UserError if that fails."""
    content = {**dataclasses.asdict(diagnosis), "healthy": diagnosis.healthy}
    with os_errors_as(f"cannot write {path}"), replacing(path) as part:
        part.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    """The same, with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
