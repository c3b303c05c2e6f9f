"""Which class a trained network assigns to image files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from labml_bn.cli.errors import UserError
from labml_bn.data.digit_image import read_digit
from labml_bn.data.mnist import CLASSES, ImageSet
from labml_bn.trained.weights import Trained


@dataclass(frozen=True)
class Prediction:
    """The most probable class of an image, and its probability according to the network."""

    name: str
    probability: float


def predict(trained: Trained, paths: Sequence[Path]) -> list[Prediction]:
    """The prediction for each image file.

    Raises UserError for a file that is not an image, and for a network that outputs NaN or infinity.
    """
    pixels = torch.stack([read_digit(path) for path in paths]).to(trained.device)
    no_labels = torch.zeros(len(pixels), device=trained.device)
    images, _ = ImageSet.of(trained.dataset, pixels, no_labels, trained.dtype).batch(slice(None))
    with torch.no_grad():
        probabilities, classes = trained.model(images).softmax(dim=1).max(dim=1)
    if not probabilities.isfinite().all():
        raise UserError("the network outputs NaN or infinity: its training has diverged")
    names = CLASSES[trained.dataset]
    return [
        Prediction(names[number], probability)
        for number, probability in zip(classes.tolist(), probabilities.tolist(), strict=True)
    ]
