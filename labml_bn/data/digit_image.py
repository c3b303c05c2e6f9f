"""An ordinary image file of a digit, converted to an image like those of MNIST.

MNIST's digits are light on dark, scaled to fit 20 × 20 pixels with their aspect ratio preserved, and placed in 28 × 28
with their centre of mass in the middle (LeCun, Cortes & Burges, "The MNIST database"). The same is done here.

The light on a photographed sheet of paper is uneven. So the background is not one value but a surface: a polynomial in
the position, fitted to the lightness of all pixels, as in Lu, Su & Tan, "Document image binarization using background
estimation and stroke edges" (IJDAR 2010). The ink must not pull the surface towards itself: the fit is robust, by
iteratively reweighted least squares with Tukey's biweight (Beaton & Tukey 1974).
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.polynomial.polynomial import polygrid2d, polyvander2d
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from labml_bn.cli.errors import UsageError, UserError, os_errors_as
from labml_bn.cli.files import check_parent, replacing

Pixels = npt.NDArray[np.float64]

#: The degrees of the polynomials that are tried: 1 is a gradient, 2 is vignetting, 4 also follows a spot of light or a
#: soft shadow.
DEGREES = (1, 2, 4)

#: The background is fitted to the image reduced to at most this many rows and columns.
REDUCED = 64

#: From this many standard deviations on, a pixel has no weight in the fit (95 % efficiency for normal noise).
TUKEY = 4.685

#: A pixel is close to the background if its lightness differs by less than this from it; white is 1, black 0.
CLOSE = 0.03

#: A pixel belongs to the digit if its contrast to the background is at least this fraction of the largest contrast.
FAINT = 0.2


def read_digit(path: Path) -> Tensor:
    """The digit in an image file, [28, 28] uint8, light on dark.

    The image may have any size, and be dark on light, light on dark, or on a transparent background. Raises UserError,
    in one line, if the file is missing, is not an image, or is blank.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for example about damaged EXIF data
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                ink = _ink(ImageOps.exif_transpose(file))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path} has too many pixels for a picture of a digit") from error
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises each of them for a damaged file
        raise UserError(f"{path} cannot be read as an image") from error
    if ink.max() == 0:
        raise UserError(f"{path}: the image is blank")
    return torch.from_numpy((_placed(ink) * 255).round().astype(np.uint8))


def _ink(image: Any) -> Pixels:
    """Each pixel's contrast to the background, 0 to 1."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        image = _stretched(image)
    if min(image.size) > 56 and image.mode in {"L", "RGB"}:
        image = image.filter(ImageFilter.MedianFilter(3))  # specks and noise
    grey = image.convert("LA")
    lightness, alpha = (np.asarray(grey.getchannel(channel), dtype=np.float64) / 255 for channel in ("L", "A"))
    if alpha.min() < 1:
        # A transparent background is the opposite of the ink.
        drawn = np.average(lightness, weights=alpha) if alpha.max() > 0 else 0.0
        background = 0.0 if drawn > 0.5 else 1.0
        lightness = lightness * alpha + background * (1 - alpha)
    difference = lightness - _background(lightness)
    # The ink differs more from the background than anything else does, and in one direction.
    contrast = np.maximum(difference if (difference**3).sum() > 0 else -difference, 0)
    most: float = contrast.max()
    if most < 0.05:
        return np.zeros_like(contrast)
    ink: Pixels = np.clip((contrast / most - FAINT) / (1 - FAINT), 0, 1)
    return ink


def _background(lightness: Pixels) -> Pixels:
    """The lightness [rows, columns] that the image would have without the ink."""
    size = tuple(min(side, REDUCED) for side in lightness.shape)
    reduced = Image.fromarray(lightness.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)
    values: Pixels = np.asarray(reduced, dtype=np.float64)
    border = np.ones(size, dtype=bool)
    border[1:-1, 1:-1] = False
    surface: Pixels = np.array([[np.median(values[border])]])
    chosen, close = surface, np.abs(values - surface) < CLOSE
    for degree in DEGREES:
        surface = _fitted(values, border, degree, surface)
        close_now = np.abs(values - _evaluated(surface, size)) < CLOSE
        # A surface of a higher degree can bend towards strokes that fill the image. So it must be close to clearly more
        # pixels than a simpler one, and to no fewer on the border, which is mostly background.
        if close_now.sum() > 1.1 * close.sum() and close_now[border].sum() >= close[border].sum():
            chosen, close = surface, close_now
    return _evaluated(chosen, lightness.shape)


def _fitted(values: Pixels, border: npt.NDArray[np.bool_], degree: int, start: Pixels) -> Pixels:
    """A polynomial's coefficients [power of the row, power of the column], fitted to most of `values`.

    The fit begins near the polynomial `start`, on the border. Pixels that differ from the polynomial by much more than
    the border's do get no weight.
    """
    rows, columns = np.meshgrid(*map(_positions, values.shape), indexing="ij")
    terms = polyvander2d(rows, columns, [degree, degree])
    used = np.add.outer(np.arange(degree + 1), np.arange(degree + 1)) <= degree
    terms = terms[..., used.ravel()]
    surface = _evaluated(start, values.shape)
    fitted = np.zeros(used.shape)
    for among in [border] * 8 + [np.ones_like(border)] * 8:
        distance = np.abs(values - surface)
        scale = 1.4826 * np.median(distance[border]) + 0.01  # the standard deviation, by the median absolute one
        root = np.clip(1 - (distance / (TUKEY * scale)) ** 2, 0, None)[among]  # the root of the biweight
        fitted[used] = np.linalg.lstsq(terms[among] * root[:, None], values[among] * root, rcond=None)[0]
        surface = _evaluated(fitted, values.shape)
    return fitted


def _evaluated(coefficients: Pixels, shape: tuple[int, ...]) -> Pixels:
    """The polynomial's values [rows, columns] over an image of this shape."""
    rows, columns = map(_positions, shape)
    values: Pixels = np.asarray(polygrid2d(rows, columns, coefficients), dtype=np.float64)
    return values


def _positions(size: int) -> Pixels:
    """The centres of `size` pixels that share the interval from -1 to 1."""
    return (2 * np.arange(size) + 1) / size - 1


def names_in(folder: Path, images: Sequence[Path]) -> list[Path]:
    """The file in `folder` in which each image is saved, `seven.png` for `scans/seven.jpg`.

    Raises UsageError if the folder cannot be one, if two images have the same name, and for a file that is an image to
    be read.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    check_parent(folder)
    files = [folder / f"{image.stem}.png" for image in images]
    resolved = [image.resolve() for image in images]
    for number, file in enumerate(files):
        if file in files[:number]:
            raise UsageError(f"two images would be saved as {file}: choose them one at a time")
        if file.resolve() in resolved:
            raise UsageError(f"{file} is one of the images: save to another folder")
    return files


def save_digit(path: Path, pixels: Tensor) -> None:
    """Write an image [28, 28] uint8 to a PNG file. The folder is created. Raises UserError if that is not possible."""
    with os_errors_as(f"cannot write {path}"):
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as part:
            Image.fromarray(pixels.numpy()).save(part)


def _stretched(image: Any) -> Any:
    """An image of 16-bit, 32-bit or real numbers as 8 bits, stretched from the darkest to the lightest pixel."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = values.min(), values.max()
    grey = (values - low) / (high - low) * 255 if high > low else np.zeros_like(values)
    return Image.fromarray(grey.round().astype(np.uint8))


def _placed(ink: Pixels) -> Pixels:
    """The ink scaled to fit 20 × 20, its centre of mass in the middle of 28 × 28."""
    # Fainter pixels are blurred edges or background: they do not count towards the digit's size.
    rows, columns = np.flatnonzero(ink.max(axis=1) > FAINT), np.flatnonzero(ink.max(axis=0) > FAINT)
    digit = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32))
    scale = 20 / max(digit.size)
    size = (max(1, round(digit.width * scale)), max(1, round(digit.height * scale)))
    fitted = np.clip(np.asarray(digit.resize(size, Image.Resampling.LANCZOS), dtype=np.float64), 0, 1)
    fitted /= fitted.max()

    height, width = fitted.shape
    total = fitted.sum()
    middle_row = (fitted.sum(axis=1) @ np.arange(height)) / total
    middle_column = (fitted.sum(axis=0) @ np.arange(width)) / total
    top = int(np.clip(round(14 - middle_row), 0, 28 - height))
    left = int(np.clip(round(14 - middle_column), 0, 28 - width))
    placed = np.zeros((28, 28))
    placed[top : top + height, left : left + width] = fitted
    return placed
