"""Random distortions of images: what each does exactly, how far it goes, and on what it depends."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from labml_bn.data.augmentation import Augmentation, distort
from labml_bn.data.mnist import ImageSet

ALL = Augmentation(shift=2, rotation=15, scale=0.1, shear=10, elastic=1.5)


@pytest.fixture(scope="module")
def pixels(test_set: ImageSet) -> Tensor:
    return test_set.images.unsqueeze(1) / 255


def distorted(pixels: Tensor, **given: float | list[float]) -> Tensor:
    """All images distorted alike."""
    values = {"shift": [0.0, 0.0], "rotation": 0.0, "scale": 1.0, "shear": 0.0, **given}
    return distort(pixels, **{name: np.array([value] * len(pixels)) for name, value in values.items()})


def test_zero_is_the_identity(pixels: Tensor) -> None:
    assert Augmentation()(pixels, 5, 0, 0) is pixels
    torch.testing.assert_close(distorted(pixels), pixels, rtol=0, atol=1e-5)
    still = np.zeros((len(pixels), 2, 5, 5))
    ones, zeros = np.ones(len(pixels)), np.zeros(len(pixels))
    torch.testing.assert_close(distort(pixels, still[:, :, 0, 0], zeros, ones, zeros, still), pixels, rtol=0, atol=1e-5)


def test_shift(pixels: Tensor) -> None:
    """To the right and down; what comes in is background."""
    shifted = distorted(pixels, shift=[3.0, 5.0])
    torch.testing.assert_close(shifted[..., 5:, 3:], pixels[..., :-5, :-3], rtol=0, atol=1e-5)
    assert (shifted[..., :5, :] == 0).all()
    assert (shifted[..., :3] == 0).all()


def test_rotation(pixels: Tensor) -> None:
    """Counterclockwise, about the centre."""
    for quarters in (1, 2, 3):
        turned = distorted(pixels, rotation=quarters * np.pi / 2)
        torch.testing.assert_close(turned, pixels.rot90(quarters, (2, 3)), rtol=0, atol=1e-4)


def test_scale(pixels: Tensor) -> None:
    """Twice as large is four times the ink, as long as nothing leaves the image."""
    small = torch.nn.functional.pad(torch.nn.functional.avg_pool2d(pixels, 2), (7, 7, 7, 7))
    larger = distorted(small, scale=2.0)
    torch.testing.assert_close(larger.sum((1, 2, 3)), 4 * small.sum((1, 2, 3)), rtol=0.02, atol=0)


def test_shear() -> None:
    """A vertical line is slanted: its lower half is moved to the right, its centre stays."""
    line = torch.zeros(1, 1, 28, 28)
    line[..., 13:15] = 1
    columns = (distorted(line, shear=np.pi / 4)[0, 0] * torch.arange(28)).sum(1) / 2
    torch.testing.assert_close(columns[2:-2], torch.arange(2.0, 26.0), rtol=0, atol=1e-3)


def test_elastic_displaces_smoothly() -> None:
    """The whole grid displaced alike is a shift; one point of it moves its surroundings only."""
    image = torch.rand(1, 1, 28, 28)
    zero, one = np.zeros(1), np.ones(1)
    grid = np.zeros((1, 2, 5, 5))
    grid[:, 0] = 3.0
    together = distort(image, np.zeros((1, 2)), zero, one, zero, grid)
    torch.testing.assert_close(together, distorted(image, shift=[3.0, 0.0]), rtol=0, atol=1e-4)
    corner = np.zeros((1, 2, 5, 5))
    corner[:, :, 0, 0] = 2.0
    moved = distort(image, np.zeros((1, 2)), zero, one, zero, corner)
    torch.testing.assert_close(moved[..., 14:, 14:], image[..., 14:, 14:], rtol=0, atol=1e-4)
    assert not torch.allclose(moved[..., :7, :7], image[..., :7, :7], atol=0.1)


def test_the_random_numbers(pixels: Tensor) -> None:
    """They depend on seed, epoch and number of the batch; each image has its own."""
    first = ALL(pixels, 5, 0, 0)
    assert torch.equal(first, ALL(pixels, 5, 0, 0))
    for other in [(6, 0, 0), (5, 1, 0), (5, 0, 1), (0, 5, 0)]:
        assert not torch.equal(first, ALL(pixels, *other))
    same = ALL(pixels[:1].repeat(5, 1, 1, 1), 5, 0, 0)
    assert len({image.sum().item() for image in same}) == 5


@pytest.mark.parametrize("name", [field.name for field in fields(Augmentation)])
def test_each_quantity_alone(pixels: Tensor, name: str) -> None:
    changed = Augmentation(**{name: 0.5})(pixels, 5, 0, 0)
    assert changed.shape == pixels.shape
    assert not torch.equal(changed, pixels)


def test_ranges() -> None:
    """A single point is displaced up to the given distance, in all directions, and on average not at all."""
    point = torch.zeros(4000, 1, 28, 28)
    point[..., 13:15, 13:15] = 0.25
    moved = Augmentation(shift=4)(point, 5, 0, 0)
    place = torch.arange(28) - 13.5
    x, y = ((moved.sum((1, dimension)) * place).sum(1) for dimension in (2, 3))
    for displacement in (x, y):
        assert displacement.abs().max() == pytest.approx(4, abs=0.02)
        assert displacement.mean() == pytest.approx(0, abs=0.15)
        assert displacement.std() == pytest.approx(8 / 12**0.5, rel=0.05)
    assert torch.corrcoef(torch.stack([x, y]))[0, 1].abs() < 0.06


def test_the_images_stay_centred_and_as_dark(pixels: Tensor) -> None:
    """Over many images neither their brightness nor their centre drifts, and pixels stay between 0 and 1."""
    place = torch.arange(28) - 13.5
    results = torch.cat([ALL(pixels, 5, epoch, 0) for epoch in range(20)])
    assert results.min() >= 0
    assert results.max() <= 1 + 1e-6
    assert results.mean().item() == pytest.approx(pixels.mean().item(), rel=0.03)
    for dimension in (2, 3):
        before, after = (((x.sum((1, dimension)) * place).sum() / x.sum()).item() for x in (pixels, results))
        assert after == pytest.approx(before, abs=0.1)


def test_float64_and_float32_agree(pixels: Tensor) -> None:
    torch.testing.assert_close(ALL(pixels.double(), 5, 0, 0).float(), ALL(pixels, 5, 0, 0), rtol=0, atol=1e-4)
