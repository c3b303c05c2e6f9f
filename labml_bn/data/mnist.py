"""MNIST and FashionMNIST as tensors, and batches of them.

The images of a split are one uint8 tensor on the device that trains. A batch is an index into it, normalized on that
device, so the data set costs no Python work per image.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labml_bn.data.augmentation import Augmentation
from labml_bn.data.download import ensure_files

#: The names of the classes, by data set.
CLASSES = {
    "MNIST": [str(digit) for digit in range(10)],
    "FashionMNIST": [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ],
}

#: Images as they are.
NO_AUGMENTATION = Augmentation()

#: Mean and standard deviation of the training pixels, in [0, 1], by data set.
PIXELS = {"MNIST": (0.1307, 0.3081), "FashionMNIST": (0.2860, 0.3530)}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of a data set: its test images, or some or all of its training images.

    `images` is [n, 28, 28] uint8 and `labels` [n] int64, on one device. A batch has the pixels divided by 255, then
    normalized by `mean` and `std`, in `dtype`.
    """

    images: Tensor
    labels: Tensor
    mean: float
    std: float
    dtype: torch.dtype

    @classmethod
    def of(cls, dataset: str, images: Tensor, labels: Tensor, dtype: torch.dtype) -> "ImageSet":
        """Images that are normalized as those of `dataset`."""
        mean, std = PIXELS[dataset]
        return cls(images, labels, mean, std, dtype)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"{len(self)} images"

    def batch(
        self, index: slice | Tensor, distort: Callable[[Tensor], Tensor] = lambda pixels: pixels
    ) -> tuple[Tensor, Tensor]:
        """The images at `index`, normalized, [batch, 1, 28, 28], and their labels [batch].

        `distort` gets the pixels before they are normalized, so from 0, the background, to 1.
        """
        pixels = distort(self.images[index].unsqueeze(1).to(self.dtype).div_(255))
        return pixels.sub_(self.mean).div_(self.std), self.labels[index]

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> "Batches":
        """The images from `start` to `stop` in order, in batches; the last may be smaller."""
        return Batches(self, batch_size, range(len(self))[start:stop])

    def shuffled(
        self, batch_size: int, seed: int, epoch: int, start: int = 0, augmentation: Augmentation = NO_AUGMENTATION
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in a random order, in batches from number `start` on, distorted; the last may be smaller.

        The order depends on `seed` and `epoch` alone: it is the same on every device, and after a resume. The
        distortions also depend on the number of the batch.
        """
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(self)))
        batches = order.to(self.labels.device).split(batch_size)
        for number in range(start, len(batches)):
            yield self.batch(batches[number], partial(augmentation, seed=seed, epoch=epoch, number=number))


class Batches(Iterable[tuple[Tensor, Tensor]]):
    """Consecutive images in batches, each created when it is needed. Can be iterated repeatedly."""

    def __init__(self, images: ImageSet, batch_size: int, indices: range) -> None:
        self._images = images
        self._parts = [indices[first : first + batch_size] for first in range(0, len(indices), batch_size)]

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self._images.batch(slice(part.start, part.stop)) for part in self._parts)


def load(
    dataset: str,
    data_path: Path,
    part: str,
    *,
    samples: int,
    held_out: int = 0,
    seed: int = 0,
    device: torch.device,
    dtype: torch.dtype,
) -> ImageSet:
    """The first `samples` images, or fewer if there are not as many, of a part of `dataset`, a key of `PIXELS`.

    `part` is "test", the test images; "held_out", as many of the training images as `held_out` says, chosen by `seed`
    with all classes represented as among all of them; or "train", the others. Missing files are downloaded to
    `data_path`. Raises UserError if they cannot be obtained.
    """
    folder = ensure_files(dataset, data_path)
    split = "t10k" if part == "test" else "train"
    # The files are verified, so their format is known: a short header, then a byte for each pixel or label.
    # torchvision would read the same, after an import that takes longer than torch's own.
    pixels = np.fromfile(folder / f"{split}-images-idx3-ubyte", np.uint8, offset=16)
    classes = np.fromfile(folder / f"{split}-labels-idx1-ubyte", np.uint8, offset=8)
    images, labels = torch.from_numpy(pixels.reshape(-1, 28, 28)), torch.from_numpy(classes).long()
    if held_out > 0 and part != "test":
        chosen = stratified(labels, held_out, seed)
        index = chosen if part == "held_out" else ~chosen
        images, labels = images[index], labels[index]
    images, labels = images[:samples], labels[:samples]
    return ImageSet.of(dataset, images.to(device), labels.to(device), dtype)


def stratified(labels: Tensor, count: int, seed: int) -> Tensor:
    """Which of the images with these labels [n] are in a random sample of `count`, as booleans [n].

    Each class has its share of the sample, rounded so that the sum is `count`.
    """
    random = np.random.default_rng(seed)
    by_class = [random.permutation(np.flatnonzero(labels == label)) for label in labels.unique()]
    # The image number i of n of its class stands at (i + 1/2) / n. The sample is all that stand before some place.
    places = np.concatenate([(np.arange(len(members)) + 0.5) / len(members) for members in by_class])
    order = np.argsort(places, kind="stable")[:count]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[torch.from_numpy(np.concatenate(by_class)[order])] = True
    return chosen
