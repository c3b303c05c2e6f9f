"""Real images of MNIST, written to image files in the ways in which users draw, photograph and scan digits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

from labml_bn.cli.errors import UserError
from labml_bn.data.digit_image import read_digit
from labml_bn.data.mnist import ImageSet
from labml_bn.trained.weights import WEIGHTS, load_weights


def unchanged(image: Any) -> Any:
    return image


def dark_on_light(image: Any) -> Any:
    return ImageOps.invert(image)


def large(image: Any) -> Any:
    return ImageOps.invert(image).resize((400, 400), Image.Resampling.BICUBIC)


def in_a_corner(image: Any) -> Any:
    canvas = Image.new("L", (300, 200), 230)
    canvas.paste(ImageOps.invert(image).point(lambda value: value * 230 // 255).resize((90, 90)), (10, 100))
    return canvas


def colour(image: Any) -> Any:
    return ImageOps.colorize(image.resize((112, 112)), black="yellow", white="navy")


def transparent(image: Any) -> Any:
    image = image.resize((112, 112))
    drawn = Image.new("RGBA", image.size, (0, 0, 0, 0))
    drawn.putalpha(image)
    return drawn


def transparent_light(image: Any) -> Any:
    image = image.resize((112, 112))
    drawn = Image.new("RGBA", image.size, (255, 255, 255, 0))
    drawn.putalpha(image)
    return drawn


def small(image: Any) -> Any:
    return image.crop((3, 3, 25, 25))


def scanned_wide(image: Any) -> Any:
    """Sixteen bits, of which the scanner used twelve."""
    values = np.asarray(ImageOps.invert(image)).astype(np.uint16) * 14 + 400
    return Image.fromarray(values)


def noisy(image: Any) -> Any:
    values = np.asarray(large(image), dtype=np.float64) * 0.6 + 40
    noise = np.random.default_rng(0).normal(scale=8, size=values.shape)
    return Image.fromarray((values + noise).clip(0, 255).astype(np.uint8))


def specked(image: Any) -> Any:
    drawn = large(image)
    drawn.putpixel((3, 3), 0)
    drawn.putpixel((395, 390), 0)
    return drawn


WAYS = [
    unchanged,
    dark_on_light,
    large,
    in_a_corner,
    colour,
    transparent,
    transparent_light,
    small,
    scanned_wide,
    noisy,
    specked,
]


#: By how much of 255 the light falls, with x and y from -1 to 1: in a direction, towards the edges, away from a lamp.
LIGHTS = {
    "right": lambda x, y: 110 * (x + 1) / 2,
    "up": lambda x, y: 110 * (1 - y) / 2,
    "corner": lambda x, y: 110 * (x + y + 2) / 4,
    "edges": lambda x, y: 110 * (x**2 + y**2) / 2,
    "lamp": lambda x, y: 110 * (1 - np.exp(-((x - 0.4) ** 2 + (y + 0.3) ** 2) / 0.5)),
}


def in_light(image: Any, light: Any) -> Any:
    """A photograph of a digit on paper, in this light."""
    paper = 225 - np.asarray(in_a_corner(image).resize((300, 300)).point(lambda v: 230 - v), dtype=np.float64) * 0.5
    y, x = np.mgrid[-1:1:300j, -1:1:300j]
    noise = np.random.default_rng(0).normal(scale=3, size=paper.shape)
    return Image.fromarray((paper - light(x, y) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("light", LIGHTS)
def test_uneven_light(light: str, trained: Path, test_set: ImageSet, tmp_path: Path) -> None:
    """Nearly all digits that are recognized in even light are recognized in this one."""
    network = load_weights(trained / WEIGHTS).model
    right = []
    for shade in (LIGHTS[light], lambda x, y: 0 * x):
        read = []
        for pixels in test_set.images[:60]:
            in_light(Image.fromarray(pixels.numpy()), shade).save(tmp_path / "photo.png")
            read.append(read_digit(tmp_path / "photo.png"))
        images, labels = ImageSet.of("MNIST", torch.stack(read), test_set.labels[:60], torch.float32).batch(slice(None))
        with torch.no_grad():
            right.append((network(images).argmax(1) == labels).sum().item())
    assert right[1] >= 54
    assert right[0] >= right[1] - 2


@pytest.mark.parametrize("way", WAYS)
def test_real_digits(way: Any, trained: Path, test_set: ImageSet, tmp_path: Path) -> None:
    """Whatever the form, a digit is recognized about as well as the original."""
    network = load_weights(trained / WEIGHTS).model
    read = []
    for number, pixels in enumerate(test_set.images):
        path = tmp_path / f"{number}.png"
        way(Image.fromarray(pixels.numpy())).save(path)
        read.append(read_digit(path))
    read_set = ImageSet.of("MNIST", torch.stack(read), test_set.labels, torch.float32)
    with torch.no_grad():
        right, ours = (
            (network(d.batch(slice(None))[0]).argmax(1) == d.labels).sum().item() for d in (test_set, read_set)
        )
    assert right >= 190
    assert ours >= right - 10


def test_an_image_like_mnists(test_set: ImageSet, tmp_path: Path) -> None:
    """An MNIST digit, read from a file, is nearly itself again: the same place, the same strokes."""
    correlations = []
    for original in test_set.images:
        Image.fromarray(original.numpy()).save(tmp_path / "digit.png")
        read = read_digit(tmp_path / "digit.png")
        assert read.shape == (28, 28)
        assert read.dtype == torch.uint8
        correlations.append(np.corrcoef(original.numpy().ravel(), read.numpy().ravel())[0, 1])
    assert np.median(correlations) > 0.98
    assert np.mean(np.array(correlations) > 0.9) > 0.9  # of the others, the middle falls into the next pixel


def test_rotated_photos(test_set: ImageSet, tmp_path: Path) -> None:
    """The orientation that a camera stores is respected."""
    image = Image.fromarray(test_set.images[0].numpy()).resize((112, 112))
    image.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.rotate(90).save(tmp_path / "turned.png", exif=exif)
    upright, turned = read_digit(tmp_path / "upright.png"), read_digit(tmp_path / "turned.png")
    assert torch.equal(upright, turned)


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (500, 3)])
@pytest.mark.parametrize("mode", ["L", "RGBA", "1"])
def test_empty_images(size: tuple[int, int], mode: str, tmp_path: Path) -> None:
    Image.new(mode, size).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match=r"empty\.png: the image is blank"):
        read_digit(tmp_path / "empty.png")


@pytest.mark.parametrize("shape", ["point", "line", "frame"])
def test_odd_images(shape: str, tmp_path: Path) -> None:
    """Images that are not digits can still be read."""
    image = Image.new("L", (300, 40), 255)
    draw = ImageDraw.Draw(image)
    if shape == "point":
        draw.point((150, 20), 0)
    elif shape == "line":
        draw.line((0, 20, 299, 20), 0)
    else:
        draw.rectangle((5, 5, 290, 35), outline=0)
    image.save(tmp_path / "odd.png")
    assert read_digit(tmp_path / "odd.png").max() > 200


def test_truncated_images(test_set: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "digit.png"
    large(Image.fromarray(test_set.images[0].numpy())).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_digit(path)
