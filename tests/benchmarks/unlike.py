"""How often `predict` finds an image unlike the training images: `python -m tests.benchmarks.unlike RUN`.

Each image goes through an image file, as a user's does. Digits are MNIST's test images, also as photographs in light
that falls by 110 of 255 across them. Letters are printed, in the fonts that matplotlib has, without those that look
like a digit. Noise has several distributions and sizes. Blank sheets are photographs of paper in the same light. A file
in which there is nothing to be seen is refused. The share of right answers is given for the digits.
"""

import itertools
import string
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import UserError
from labml_bn.cli.text import table
from labml_bn.data.digit_image import read_digit
from labml_bn.data.mnist import CLASSES
from labml_bn.trained.prediction import predict
from labml_bn.trained.weights import load_run
from tests.benchmarks.command import positive

Pixels = npt.NDArray[np.float64]

#: Letters that do not look like a digit in any of the fonts.
LETTERS = sorted(set(string.ascii_letters) - set("BDGIOQSZbgijloqsyz"))

FONTS = [
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif"),
    *("STIXGeneral", "STIXGeneralBolIta", "cmr10", "cmss10", "cmtt10"),
]

#: How the light falls across a photograph: from the brightest, 0, to the darkest, 1; x and y go from -1 to 1.
LIGHTS: dict[str, Callable[[Pixels, Pixels], Pixels]] = {
    "even": lambda x, y: 0 * x,
    "to the right": lambda x, y: (x + 1) / 2,
    "to a corner": lambda x, y: (x + y + 2) / 4,
    "to the edges": lambda x, y: (x**2 + y**2) / 2,
    "a spot": lambda x, y: 1 - np.exp(-((x - 0.4) ** 2 + (y + 0.3) ** 2) / 0.5),
}


#: How noise of a size [size, size] is made.
NOISES: dict[str, Callable[[np.random.Generator, int], Pixels]] = {
    "uniform": lambda random, size: random.uniform(0, 255, (size, size)),
    "normal": lambda random, size: random.normal(128, 40, (size, size)),
    "black dots": lambda random, size: np.where(random.random((size, size)) < 0.1, 0.0, 255.0),
    "clouds": lambda random, size: blurred(random.uniform(0, 255, (size, size)), size / 14),
}


def main() -> None:
    """The command."""
    parser = Parser("tests.benchmarks.unlike", __doc__)
    parser.add_run_argument()
    parser.add_data_argument()
    parser.add_argument("--images", type=positive, default=500, metavar="N", help="of each kind (default: 500)")
    given = parser.parse_args()
    source, trained = load_run(given.run, given.logs, given.data)
    test_set = trained.test_set()
    labels = test_set.labels[: given.images].tolist()
    with tempfile.TemporaryDirectory() as folder:
        file, kinds = Path(folder) / "image.png", of_each_kind(test_set.images[: given.images].numpy())
        digits = {kind: [read(image, file) for image in images] for kind, images in kinds}
    readable = [digit for of_kind in digits.values() for digit in of_kind if digit is not None]
    predictions = iter(predict(trained, torch.stack(readable)))
    rows: list[list[Any]] = [["images", "how many", "refused", "unlike", "right"]]
    for kind, of_kind in digits.items():
        found = [next(predictions) if digit is not None else None for digit in of_kind]
        refused, unlike = ([one is None for one in found], [one is not None and one.unlike for one in found])
        row = [kind, len(found), f"{np.mean(refused):.1%}", f"{np.mean(unlike):.1%}", ""]
        if kind.startswith("digits"):
            names = [one.likeliest[0][0] if one else "" for one in found]
            right = [name == CLASSES[trained.dataset][label] for name, label in zip(names, labels, strict=True)]
            row[-1] = f"{np.mean(right):.1%}"
        rows.append(row)
    print(f"{source}: {trained.dataset}, norm={trained.settings['norm']}")
    print(table(rows))


def of_each_kind(digits: Any) -> Iterator[tuple[str, Iterator[Any]]]:
    """As many images of each kind as there are digits, [n, 28, 28] uint8."""
    random, count = np.random.default_rng(0), range(len(digits))
    yield "digits", map(Image.fromarray, digits)
    for name, light in LIGHTS.items():
        yield f"digits, light: {name}", (photo(light, random, digit) for digit in digits)
    letters = list(itertools.product(LETTERS, FONTS))
    yield "letters", (letter(*letters[one]) for one in random.permutation(len(letters))[: len(digits)])
    for name, values in NOISES.items():
        yield f"noise: {name}", (as_image(values(random, (28, 50, 200)[number % 3])) for number in count)
    for name, light in LIGHTS.items():
        yield f"blank sheets, light: {name}", (photo(light, random) for _ in count)


def read(image: Any, file: Path) -> Tensor | None:
    """The image as the network sees it, by way of a file; None if it is refused."""
    image.save(file)
    try:
        return read_digit(file)
    except UserError:
        return None


def photo(light: Callable[[Pixels, Pixels], Pixels], random: np.random.Generator, digit: Any = None) -> Any:
    """A photograph of a sheet of paper, perhaps with a digit [28, 28] on it, soft and with noise."""
    size = 320
    lightness = np.full((size, size), 225.0)
    if digit is not None:
        margin = size // 5
        enlarged = Image.fromarray(digit).resize((size - 2 * margin,) * 2, Image.Resampling.BICUBIC)
        ink = np.asarray(enlarged.filter(ImageFilter.GaussianBlur(2)), np.float64) / 255
        lightness[margin : size - margin, margin : size - margin] -= 110 * ink
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    lightness -= 110 * light(x, y)
    return as_image(lightness + random.normal(0, 3, lightness.shape)).filter(ImageFilter.GaussianBlur(1))


def letter(character: str, font: str) -> Any:
    """A printed letter."""
    image = Image.new("L", (160, 160), 255)
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    ImageDraw.Draw(image).text((80, 80), character, 0, font=ImageFont.truetype(file, 90), anchor="mm")
    return image


def blurred(values: Pixels, radius: float) -> Pixels:
    """Smoothed, and stretched from black to white."""
    smooth = np.asarray(as_image(values).filter(ImageFilter.GaussianBlur(radius)), np.float64)
    stretched: Pixels = (smooth - smooth.min()) / max(np.ptp(smooth), 1) * 255
    return stretched


def as_image(values: Pixels) -> Any:
    """An image of these lightnesses from 0 to 255."""
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


if __name__ == "__main__":
    run_command(main)
