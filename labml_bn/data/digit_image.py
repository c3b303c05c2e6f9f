"""An ordinary image file of a digit, converted to an image like those of MNIST.

MNIST's digits are light on dark, scaled to fit 20 × 20 pixels with their aspect ratio preserved, and placed in 28 × 28
with their centre of mass in the middle (LeCun, Cortes & Burges, "The MNIST database"). The same is done here.

The light on a photographed sheet of paper is uneven. So the background is not one value but a surface: a polynomial in
the position, fitted to the lightness of all pixels, as in Lu, Su & Tan, "Document image binarization using background
estimation and stroke edges" (IJDAR 2010). The ink must not pull the surface towards itself: the fit is robust, by
iteratively reweighted least squares with Tukey's biweight (Beaton & Tukey 1974).
"""

import contextlib
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from numpy.polynomial.polynomial import polygrid2d, polyvander2d
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from labml_bn.cli.errors import UsageError, UserError, os_errors_as, reason
from labml_bn.cli.files import check_parent, replacing
from labml_bn.cli.received import open_to_read

Pixels = npt.NDArray[np.float64]

#: The formats that are read. Pillow knows dozens more; an EPS file, whatever its name, is a program for Ghostscript.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

#: The limits of a file, which are checked before it is decoded. Phones take photographs of up to 50 megapixels.
#: Decoding the largest image takes up to 1 GB, and a file of that size with nothing but metadata about as much. The
#: comments of a GIF file take 40 times their size.
MOST_MEGAPIXELS = 51
MOST_MEGABYTES = 100
MOST_MEGABYTES_GIF = 10

#: Each scan of a JPEG file passes over the whole image, and can be as short as 76 bytes. Cameras write up to 10.
MOST_SCANS = 100

#: The first bytes of a JPEG file, and those of each scan.
_JPEG, _SCAN = b"\xff\xd8\xff", b"\xff\xda"

#: An image with more rows or columns is reduced to at most so many before anything is computed from it.
LONGEST = 2048

#: The modes of images whose pixels are 16-bit, 32-bit or real numbers.
WIDE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")

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

    The image may have any size up to the limits above, and be dark on light, light on dark, or on a transparent
    background. Raises UserError, in one line, if the file is missing, is not an image, or is blank.
    """
    try:
        with open_to_read(path, sys.maxsize, follow_links=True) as file:
            ink = _ink(_grey(file, path))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except MemoryError as error:
        raise UserError(f"there is not enough memory for the image in {path}") from error
    if ink.max() == 0:
        raise UserError(f"{path}: the image is blank")
    return torch.from_numpy((_placed(ink) * 255).round().astype(np.uint8))


def _grey(file: BinaryIO, path: Path) -> Any:
    """The image in a file, upright, its mode "LA": lightness and opacity."""
    beginning = file.read(3)
    megabytes = MOST_MEGABYTES_GIF if beginning == b"GIF" else MOST_MEGABYTES
    if os.fstat(file.fileno()).st_size > megabytes * 10**6:
        raise UserError(f"{path} is larger than {megabytes} MB: reduce the image first")
    if beginning == _JPEG and file.read().count(_SCAN) > MOST_SCANS:
        raise UserError(f"{path} has more than {MOST_SCANS} scans, and would take too long")
    file.seek(0)
    too_large = f"{path} has more than {MOST_MEGAPIXELS} megapixels: reduce the image first"
    try:
        with warnings.catch_warnings(), _without_stderr():
            warnings.simplefilter("ignore")  # for example about damaged EXIF data
            image: Any = Image.open(file, formats=FORMATS)
            if max(image.width * image.height, _tile(image)) > MOST_MEGAPIXELS * 10**6:
                raise UserError(too_large)
            image = ImageOps.exif_transpose(_reduced(image))
            if image.mode in WIDE:
                image = _stretched(image)
            if min(image.size) > 56 and image.mode in {"L", "RGB"}:
                image = image.filter(ImageFilter.MedianFilter(3))  # specks and noise
            return image.convert("LA")
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise UserError(too_large) from error
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise UserError(f"{path} cannot be read as an image ({formats})") from error


def _tile(image: Any) -> int:
    """The pixels of a tile of a TIFF file, which can be larger than the image."""
    width, length = 322, 323  # the tags
    return image.tag_v2.get(width, 0) * image.tag_v2.get(length, 0) if image.format == "TIFF" else 0


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what is written to the descriptor of stderr: libtiff reports damaged files there."""
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _reduced(image: Any) -> Any:
    """The image with at most `LONGEST` rows and columns: each pixel is the mean of those that it replaces."""
    # A JPEG file can be decoded at a half, a quarter or an eighth of its size; for other formats this does nothing.
    image.draft(None, (LONGEST, LONGEST))
    image.load()
    factor = math.ceil(max(image.size) / LONGEST)
    if factor == 1:
        return image
    if image.mode not in {"I", "F"}:  # palettes and 16-bit numbers have no mean
        image = image.convert("I" if image.mode in WIDE else "RGBA" if image.has_transparency_data else "L")
    return image.reduce(factor)


def _ink(grey: Any) -> Pixels:
    """Each pixel's contrast to the background, 0 to 1, of an image whose mode is "LA"."""
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
