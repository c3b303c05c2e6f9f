"""Which classes a trained network assigns to images, and whether they are like its training images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from labml_bn.cli.errors import UserError
from labml_bn.cli.output import report
from labml_bn.data.download import is_complete
from labml_bn.data.mnist import CLASSES, ImageSet
from labml_bn.trained.likeness import TrainingFeatures
from labml_bn.trained.weights import Trained

#: How many classes a prediction has.
LIKELIEST = 3


@dataclass(frozen=True)
class Prediction:
    """What a network makes of an image.

    `likeliest` are three classes and their probabilities according to the network. `distance` is that to the nearest
    training image, `limit` that within which 99 % of the training images are to others; both are NaN if not known.
    """

    likeliest: list[tuple[str, float]]
    distance: float
    limit: float

    @property
    def unlike(self) -> bool:
        """Whether the image is farther from the training images than nearly all of them are from each other."""
        return self.distance > self.limit


def predict(trained: Trained, pixels: Tensor) -> list[Prediction]:
    """The prediction for each image in `pixels`, [n, 28, 28] uint8.

    Raises UserError for a network that outputs NaN or infinity.
    """
    no_labels = torch.zeros(len(pixels), device=trained.device)
    images = ImageSet.of(trained.dataset, pixels.to(trained.device), no_labels, trained.dtype)
    batch_size = trained.batch_size
    with torch.no_grad():
        logits = torch.cat([trained.model(batch) for batch, _ in images.batches(batch_size)])
    if not logits.isfinite().all():
        raise UserError("the network outputs NaN or infinity: its training has diverged")
    training = _training_features(trained)
    if training is None:
        limit, distances = torch.nan, [torch.nan] * len(pixels)
    else:
        limit, distances = training.limit, training.distances(trained.model, images.batches(batch_size)).tolist()
    probabilities, classes = (of_images.tolist() for of_images in logits.softmax(dim=1).topk(LIKELIEST))
    names = [[CLASSES[trained.dataset][number] for number in numbers] for numbers in classes]
    return [
        Prediction(list(zip(*likeliest, strict=True)), distance, limit)
        for *likeliest, distance in zip(names, probabilities, distances, strict=True)
    ]


def _training_features(trained: Trained) -> TrainingFeatures | None:
    """Those that the images are compared with; None, and a line on standard error, if that is not possible."""
    not_compared = "the images are not compared with the training images"
    if not is_complete(trained.dataset, trained.data_path):
        report(f"{not_compared}: {trained.data_path} does not have {trained.dataset} (--data DIR)")
        return None
    images = trained.train_set()
    features = TrainingFeatures.of(trained.model, images, trained.batch_size)
    if features is None:
        report(f"{not_compared}: {len(images)} are too few")
    return features
