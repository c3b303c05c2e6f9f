"""The distance to the training images, against NumPy, and of digits, letters and noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from labml_bn.data.digit_image import read_digit
from labml_bn.data.mnist import ImageSet
from labml_bn.models import ConvNet
from labml_bn.settings import parsed_layers
from labml_bn.trained.likeness import TrainingFeatures
from labml_bn.trained.weights import WEIGHTS, load_weights


def image_set(images: Tensor) -> ImageSet:
    return ImageSet.of("MNIST", images, torch.zeros(len(images), dtype=torch.int64), torch.float32)


@pytest.mark.parametrize("layers", ["20C5-P2-50C5-P2-500N", "4C5", "8N"])
def test_distances(layers: str) -> None:
    """Euclidean ones to the nearest of four fifths, by NumPy in float64; the limit is a quantile of the others'."""
    generator = torch.Generator().manual_seed(0)
    images, others = (
        torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=generator) for count in (600, 30)
    )
    model = ConvNet("batch_norm", parsed_layers(layers)).eval()

    def features(pixels: Tensor) -> np.ndarray:
        x = (pixels[:, None].double() / 255 - 0.1307) / 0.3081
        with torch.no_grad():
            for name, module in model.double().named_children():
                x = module(x)
                if name == "flatten1":
                    break
        model.float()
        found: np.ndarray = x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True)
        return found

    def nearest(some: np.ndarray, references: np.ndarray) -> np.ndarray:
        return np.array([np.linalg.norm(one - references, axis=1).min() for one in some])

    training = TrainingFeatures.of(model, image_set(images), 64)
    assert training is not None
    references = features(images[:480])
    assert training.limit == pytest.approx(np.quantile(nearest(features(images[480:]), references), 0.99), abs=1e-4)
    distances = training.distances(model, image_set(others).batches(7))
    np.testing.assert_allclose(distances.numpy(), nearest(features(others), references), atol=1e-4)
    assert training.distances(model, image_set(images[:3]).batches(7)).max() < 1e-2  # to themselves


def test_too_few_images() -> None:
    images = image_set(torch.zeros(499, 28, 28, dtype=torch.uint8))
    assert TrainingFeatures.of(ConvNet().eval(), images, 64) is None


def test_digits_letters_and_noise(trained: Path, test_set: ImageSet, tmp_path: Path) -> None:
    """Few digits are unlike the training images, many letters are, and all noise is."""
    network = load_weights(trained / WEIGHTS)
    training = TrainingFeatures.of(network.model, network.train_set(), 256)
    assert training is not None

    def share(images: Tensor) -> float:
        return (
            (training.distances(network.model, image_set(images).batches(256)) > training.limit).double().mean().item()
        )

    letters = []
    for letter in "ACEFHKMNPRTUVWXY":
        image = Image.new("L", (100, 100), 255)
        ImageDraw.Draw(image).text((50, 50), letter, 0, font=ImageFont.load_default(60), anchor="mm")
        image.save(tmp_path / "letter.png")
        letters.append(read_digit(tmp_path / "letter.png"))
    noise = torch.randint(0, 256, (50, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert share(test_set.images) < 0.05
    assert share(torch.stack(letters)) > 0.3
    assert share(noise) == 1
