"""An ordinary image file of a digit, converted to an image like those of MNIST.

MNIST's digits are light on dark, scaled to fit 20 × 20 pixels with their aspect ratio preserved, and placed in 28 × 28
with their centre of mass in the middle (LeCun, Cortes & Burges, "The MNIST database"). The same is done here.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from labml_bn.cli.errors import UserError

Pixels = npt.NDArray[np.float64]

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
    border = np.concatenate([lightness[0], lightness[-1], lightness[:, 0], lightness[:, -1]])
    difference = np.abs(lightness - np.median(border))
    most: float = difference.max()
    if most < 0.05:
        return np.zeros_like(difference)
    ink: Pixels = np.clip((difference / most - FAINT) / (1 - FAINT), 0, 1)
    return ink


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
