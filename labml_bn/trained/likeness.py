"""How far an image is from the training images, as the network sees them.

A network gives every image one of its classes, often with a high probability: a letter, noise. So an image is also
compared with training images: by the features that the convolutions compute of it, scaled to length 1, and their
distance to the nearest ones of a training image (Sun, Ming, Zhu & Li, "Out-of-Distribution Detection with Deep Nearest
Neighbors", ICML 2022). They take the features before the last layer; those before the first linear layer separate
digits from letters and noise better. `python -m tests.benchmarks.unlike` prints the rates.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bn.data.mnist import Batches, ImageSet

#: At most so many training images are compared with.
NEIGHBOURS = 8000

#: At most so many other training images give the limit.
CALIBRATION = 2000

#: A limit that fewer would give means nothing.
FEWEST = 100

#: The share of the training images that are within the limit of others.
WITHIN = 0.99


@dataclass(frozen=True)
class TrainingFeatures:
    """The features [n, features] of training images, of length 1, and the limit of the distance to them."""

    features: Tensor
    limit: float

    @classmethod
    def of(cls, model: nn.Module, images: ImageSet, batch_size: int) -> "TrainingFeatures | None":
        """The features of four fifths of the training `images`, the limit by the others; None for too few images.

        Of many images, the first 10,000 are used.
        """
        calibration = min(len(images) // 5, CALIBRATION)
        if calibration < FEWEST:
            return None
        neighbours = min(len(images) - calibration, NEIGHBOURS)
        features = torch.cat(list(_features(model, images.batches(batch_size, stop=neighbours))))
        others = images.batches(batch_size, start=neighbours, stop=neighbours + calibration)
        limit = _distances(features, _features(model, others)).quantile(WITHIN).item()
        return cls(features, limit)

    def distances(self, model: nn.Module, batches: Batches) -> Tensor:
        """The Euclidean distance [n], from 0 to 2, of each image to the nearest training image."""
        return _distances(self.features, _features(model, batches))


def _distances(references: Tensor, features: Iterable[Tensor]) -> Tensor:
    """The distance [n] of each vector in the batches `features` to the nearest of `references`; all have length 1."""
    nearest = torch.cat([(batch @ references.T).amax(dim=1) for batch in features])
    return (2 - 2 * nearest).clamp(min=0).sqrt()  # |a - b|² = 2 - 2 a·b


def _features(model: nn.Module, batches: Batches) -> Iterator[Tensor]:
    """What the first linear layer gets of each batch, [batch, features], as float32 of length 1."""
    modules = list(model.children())
    flatten = next(number for number, module in enumerate(modules) if isinstance(module, nn.Flatten))
    convolutions = nn.Sequential(*modules[: flatten + 1])
    with torch.no_grad():
        for images, _ in batches:
            yield F.normalize(convolutions(images).float(), dim=1)
