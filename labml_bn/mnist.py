"""The digits as tensors, and the batches made of them.

The images of a split live as one uint8 tensor on the device that trains. A batch is an index into it, normalized where
it lies, so that the data cost no Python work per image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labml_bn.mnist_files import CHECKSUMS, ensure_files

#: The data sets that can be loaded.
DATASETS = list(CHECKSUMS)

#: The names of the classes, by data set.
CLASSES = {
    "MNIST": [str(digit) for digit in range(10)],
    "FashionMNIST": [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ],
}

#: Mean and standard deviation of the training pixels, in [0, 1], by data set.
PIXELS = {"MNIST": (0.1307, 0.3081), "FashionMNIST": (0.2860, 0.3530)}


@dataclass(frozen=True, eq=False)
class Digits:
    """A split of a data set.

    `images` is [n, 28, 28] uint8 and `labels` [n] int64, on one device; `mean` and `std` normalize the pixels as
    fractions of 255; `dtype` is that of the batches.
    """

    images: Tensor
    labels: Tensor
    mean: float
    std: float
    dtype: torch.dtype

    @classmethod
    def of(cls, dataset: str, images: Tensor, labels: Tensor, dtype: torch.dtype) -> "Digits":
        """Images of `dataset`, normalized as it is."""
        mean, std = PIXELS[dataset]
        return cls(images, labels, mean, std, dtype)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"{len(self)} images"

    def batch(self, index: slice | Tensor) -> tuple[Tensor, Tensor]:
        """The images that `index` picks, normalized [batch, 1, 28, 28], and their labels [batch]."""
        pixels = self.images[index].unsqueeze(1).to(self.dtype) / 255
        return (pixels - self.mean) / self.std, self.labels[index]

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> "Batches":
        """The images from `start` to `stop` in their order, in batches; the last may be smaller."""
        return Batches(self, batch_size, range(len(self))[start:stop])

    def shuffled(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in a random order, in batches from number `start` on; the last may be smaller.

        The order is a function of `seed` and `epoch` alone: the same on every device and however training got there.
        """
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(self)))
        for index in order.to(self.labels.device).split(batch_size)[start:]:
            yield self.batch(index)


class Batches(Sequence[tuple[Tensor, Tensor]]):
    """A range of images in batches, each made when it is asked for; it can be gone through again and again."""

    def __init__(self, digits: Digits, batch_size: int, images: range) -> None:
        self._digits = digits
        self._parts = [images[first : first + batch_size] for first in range(0, len(images), batch_size)]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: Any) -> Any:
        part = self._parts[number]
        return self._digits.batch(slice(part.start, part.stop))


def load(
    dataset: str, data_path: Path, *, train: bool, samples: int, device: torch.device, dtype: torch.dtype
) -> Digits:
    """The first `samples` images of the training or the test split of `dataset`, a key of `PIXELS`.

    The files are fetched into `data_path` where they are missing. Raises UserError where they cannot be had.
    """
    folder = ensure_files(dataset, data_path)
    split = "train" if train else "t10k"
    # The files are verified, so what is in them is known: a short head, then a byte for each pixel or label.
    # torchvision would read the same, after importing for longer than torch itself does.
    pixels = np.fromfile(folder / f"{split}-images-idx3-ubyte", np.uint8, count=samples * 28 * 28, offset=16)
    classes = np.fromfile(folder / f"{split}-labels-idx1-ubyte", np.uint8, count=samples, offset=8)
    images, labels = torch.from_numpy(pixels.reshape(-1, 28, 28)), torch.from_numpy(classes).long()
    return Digits.of(dataset, images.to(device), labels.to(device), dtype)
