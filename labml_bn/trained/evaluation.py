"""How well a trained network does on the test images: loss, accuracy with its interval, confusion matrix."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bn.cli import text
from labml_bn.cli.errors import UsageError, UserError
from labml_bn.data.mnist import CLASSES, ImageSet
from labml_bn.norm import estimate_population
from labml_bn.trained.weights import Trained


@dataclass(frozen=True)
class Classification:
    """The logits [n, classes] of a network for a set of images, on the CPU."""

    dataset: str
    images: ImageSet
    logits: Tensor

    @property
    def labels(self) -> Tensor:
        """The true classes [n]."""
        return self.images.labels.cpu()

    @property
    def predicted(self) -> Tensor:
        """The most probable class of each image [n]."""
        return self.logits.argmax(dim=1)

    def report(self) -> str:
        """Loss, accuracy with its 95 % interval, and the confusion matrix, as text."""
        labels, predicted, classes = self.labels, self.predicted, CLASSES[self.dataset]
        correct, n = int((predicted == labels).sum()), len(labels)
        low, high = wilson_interval(correct, n)
        loss = F.cross_entropy(self.logits, labels).item()
        confusion = torch.bincount(labels * len(classes) + predicted, minlength=len(classes) ** 2)
        counts = confusion.view(len(classes), -1).tolist()
        rows = [["true \\ predicted", *classes], *([name, *row] for name, row in zip(classes, counts, strict=True))]
        return (
            f"test loss {text.loss(loss)}\n"
            f"accuracy {correct / n:.2%} ({correct} of {n}), 95% interval {low:.2%} to {high:.2%}\n\n{text.table(rows)}"
        )


def classify(
    trained: Trained, statistics: str, samples: int | None = None, progress: Callable[[Any], Any] = iter
) -> Classification:
    """The network's logits for its test images.

    `statistics` is what the layers normalize by: `running`, `population` (of the first `samples` training images, None:
    all; `progress` wraps each pass over them) or `batch` (each test batch's own). The network is left with these.

    Raises UsageError for a network without normalization and for too many `samples`, UserError for a batch of one.
    """
    _use_statistics(trained, statistics, samples, progress)
    batch_size = trained.settings["valid_batch_size"] if statistics == "batch" else trained.batch_size
    images = trained.test_set()
    with torch.no_grad():
        logits = torch.cat([trained.model(batch) for batch, _ in images.batches(batch_size)])
    return Classification(trained.dataset, images, logits.cpu())


def _use_statistics(trained: Trained, statistics: str, samples: int | None, progress: Callable[[Any], Any]) -> None:
    layers = [layer for layer in trained.model.modules() if isinstance(layer, _BatchNorm)]
    if statistics == "running":
        return
    if not layers:
        raise UsageError(f"norm={trained.settings['norm']} has no statistics: leave --statistics out")
    batch_size, valid_samples = trained.settings["valid_batch_size"], trained.settings["valid_samples"]
    if statistics == "population":
        images = trained.train_set()
        if samples is not None and samples > len(images):
            raise UsageError(f"population:{samples} is more than the run's {len(images)} training images")
        estimate_population(trained.model, images.batches(trained.batch_size), samples=samples, progress=progress)
        return
    if batch_size == 1 or valid_samples % batch_size == 1:
        raise UserError(f"valid_batch_size={batch_size} makes a batch of one image, which has no variance")
    for layer in layers:
        layer.running_mean = layer.running_var = None


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of Wilson 1927 for a proportion, `correct` of `n`. It stays within [0, 1]."""
    z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
    p = correct / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
