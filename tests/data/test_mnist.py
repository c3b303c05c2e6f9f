"""The data set as tensors and batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from labml_bn.data.augmentation import Augmentation
from labml_bn.data.mnist import CLASSES, ImageSet, load, stratified


@pytest.fixture(scope="module")
def train_set(data_path: Path) -> ImageSet:
    return load("MNIST", data_path, "train", samples=60_000, device=torch.device("cpu"), dtype=torch.float32)


def test_the_real_data_set(data_path: Path, train_set: ImageSet) -> None:
    """Known facts of MNIST: its size, its first labels, how often each digit occurs, its mean and deviation."""
    assert train_set.images.shape == (60_000, 28, 28)
    assert train_set.images.dtype == torch.uint8
    assert train_set.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert train_set.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    pixels = train_set.images.double() / 255
    assert pixels.mean().item() == pytest.approx(train_set.mean, abs=5e-5)
    assert pixels.std().item() == pytest.approx(train_set.std, abs=5e-5)
    test = load("MNIST", data_path, "test", samples=100, device=torch.device("cpu"), dtype=torch.float64)
    assert len(test) == 100
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert next(iter(test.batches(10)))[0].dtype == torch.float64


@pytest.mark.parametrize("train", [True, False])
def test_as_torchvision_reads_them(data_path: Path, train: bool) -> None:
    theirs = torchvision.datasets.MNIST(data_path, train=train)
    ours = load(
        "MNIST",
        data_path,
        "train" if train else "test",
        samples=60_000,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    assert torch.equal(ours.images, theirs.data)
    assert torch.equal(ours.labels, theirs.targets)


def test_the_names_of_the_classes() -> None:
    assert CLASSES["FashionMNIST"] == torchvision.datasets.FashionMNIST.classes


def test_batches_in_order(train_set: ImageSet) -> None:
    batches = list(train_set.batches(1024, 500, 3000))
    assert [len(labels) for _, labels in batches] == [1024, 1024, 452]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(labels, train_set.labels[500:3000])
    expected = (train_set.images[500:3000].unsqueeze(1) / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(images, expected)


def test_shuffled_batches(train_set: ImageSet) -> None:
    """Each image once an epoch, in an order that seed and epoch fix, with its own label."""
    tagged = ImageSet(torch.arange(1000).view(-1, 1, 1), torch.arange(1000), 0.0, 1.0, torch.float64)

    def order(seed: int, epoch: int) -> list[int]:
        batches = list(tagged.shuffled(64, seed, epoch))
        assert [len(labels) for _, labels in batches] == [64] * 15 + [40]
        for images, labels in batches:
            assert torch.equal((images.flatten() * 255).round().long(), labels)
        return [label for _, labels in batches for label in labels.tolist()]

    first = order(5, 0)
    assert first == order(5, 0)
    assert sorted(first) == list(range(1000)) != first
    others = [order(5, 1), order(6, 0), order(4, 1)]
    assert all(first != other for other in others)


def test_augmented_batches(train_set: ImageSet) -> None:
    """The same images in the same order, distorted; the background stays the background. A resume gives the same."""
    small = ImageSet.of("MNIST", train_set.images[:300], train_set.labels[:300], torch.float32)
    augmentation = Augmentation(shift=2, rotation=10)
    plain, augmented = (list(small.shuffled(64, 5, 1, 0, given)) for given in (Augmentation(), augmentation))
    background = (torch.zeros(()) - small.mean) / small.std
    for (x, labels), (y, same_labels) in zip(plain, augmented, strict=True):
        assert torch.equal(labels, same_labels)
        assert not torch.equal(x, y)
        assert (y[..., 0, 0] == background).all()
    resumed = list(small.shuffled(64, 5, 1, 3, augmentation))
    for ours, theirs in zip(resumed, augmented[3:], strict=True):
        assert torch.equal(ours[0], theirs[0])
    for (x, _), index in zip(small.batches(100), range(3), strict=True):
        assert torch.equal(x, small.batch(slice(100 * index, 100 * index + 100))[0])


def test_only_verified_files_are_read(data_path: Path, tmp_path: Path) -> None:
    """Older versions of torchvision left a copy in `processed`, which is not verified."""
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "raw").symlink_to(data_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        black = (torch.zeros(100, 28, 28, dtype=torch.uint8), torch.full((100,), 7))
        torch.save(black, tmp_path / "MNIST" / "processed" / name)
    train_set = load("MNIST", tmp_path, "train", samples=5, device=torch.device("cpu"), dtype=torch.float32)
    assert train_set.labels.tolist() == [5, 0, 4, 1, 9]


@pytest.mark.parametrize("count", [10, 1000, 10_003, 59_999])
def test_a_stratified_sample(train_set: ImageSet, count: int) -> None:
    """Each class has its share, up to rounding; the seed chooses, and nothing else."""
    chosen = stratified(train_set.labels, count, seed=3)
    assert int(chosen.sum()) == count
    expected = train_set.labels.bincount() * count / 60_000
    assert (train_set.labels[chosen].bincount(minlength=10) - expected).abs().max() <= 1
    assert torch.equal(chosen, stratified(train_set.labels, count, seed=3))
    assert not torch.equal(chosen, stratified(train_set.labels, count, seed=4))


def test_held_out_images(data_path: Path, train_set: ImageSet) -> None:
    """Held-out and other training images are all of them, none twice; the first of the others are trained on."""
    given: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32, "seed": 1}
    held_out = load("MNIST", data_path, "held_out", samples=1000, held_out=1000, **given)
    others = load("MNIST", data_path, "train", samples=60_000, held_out=1000, **given)
    assert (len(held_out), len(others)) == (1000, 59_000)
    chosen = stratified(train_set.labels, 1000, seed=1)
    for part, index in ((held_out, chosen), (others, ~chosen)):
        assert torch.equal(part.images, train_set.images[index])
        assert torch.equal(part.labels, train_set.labels[index])
    few = load("MNIST", data_path, "train", samples=100, held_out=1000, **given)
    assert torch.equal(few.images, others.images[:100])
    test = load("MNIST", data_path, "test", samples=100, **given)
    assert torch.equal(test.images, load("MNIST", data_path, "test", samples=100, held_out=1000, **given).images)
