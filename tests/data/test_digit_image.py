"""Real images of MNIST, written to image files in the ways in which users draw, photograph and scan digits."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

from labml_bn.cli.errors import UserError
from labml_bn.data.digit_image import LONGEST, MOST_MEGABYTES, MOST_MEGAPIXELS, MOST_SCANS, read_digit
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


def turned(image: Any, path: Path) -> None:
    """As a camera that was held upright stores a photograph."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image.rotate(90).save(path, exif=exif)


def with_alpha(image: Any, path: Path) -> None:
    drawn = Image.new("RGBA", image.size, (0, 0, 0, 0))
    drawn.putalpha(ImageOps.invert(image))
    drawn.save(path)


def black_and_white(image: Any) -> Any:
    return image.point(lambda value: 255 * (value > 127))


def with_a_transparent_colour(image: Any, path: Path) -> None:
    black_and_white(image).save(path, transparency=255)


def of_16_bits(image: Any, path: Path) -> None:
    Image.fromarray(np.asarray(image).astype(np.uint16) * 200).save(path)


def of_real_numbers(image: Any, path: Path) -> None:
    Image.fromarray(np.asarray(image).astype(np.float32)).save(path)


def in_colours(image: Any, path: Path) -> None:
    image.convert("RGB").save(path)


def with_a_palette(image: Any, path: Path) -> None:
    image.convert("P").save(path)


def in_black_and_white(image: Any, path: Path) -> None:
    black_and_white(image).convert("1").save(path)


FORMS = [
    (turned, "jpg"),
    (turned, "tif"),
    (turned, "png"),
    (turned, "webp"),
    (with_alpha, "png"),
    (with_alpha, "webp"),
    (with_a_transparent_colour, "png"),
    (of_16_bits, "png"),
    (of_16_bits, "tif"),
    (of_real_numbers, "tif"),
    (in_colours, "ppm"),
    (in_colours, "jpg"),
    (with_a_palette, "gif"),
    (with_a_palette, "bmp"),
    (in_black_and_white, "png"),
]


@pytest.mark.parametrize(("form", "ending"), FORMS)
def test_large_images(form: Any, ending: str, test_set: ImageSet, tmp_path: Path) -> None:
    """They are reduced, and the digit is the same as in a small image."""
    image = ImageOps.invert(Image.fromarray(test_set.images[0].numpy()))
    read: list[Any] = []
    for size in (LONGEST // 4, LONGEST * 3 // 2):
        form(image.resize((size, size), Image.Resampling.BICUBIC), tmp_path / f"{size}.{ending}")
        read.append(read_digit(tmp_path / f"{size}.{ending}").numpy().ravel())
    assert np.corrcoef(read)[0, 1] > 0.99


#: Reads the files that it is given, and prints for each what was wrong; then the largest memory in MB.
READER = """
import json, resource, sys
from pathlib import Path
from labml_bn.cli.errors import UserError
from labml_bn.data.digit_image import read_digit

def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def outcome(path):
    try:
        return str(read_digit(Path(path)).shape)
    except UserError as error:
        return str(error)

before = memory()
print(json.dumps([[outcome(path) for path in sys.argv[1:]], memory() - before]))
"""


def read_apart(*paths: Path) -> tuple[list[str], float]:
    """The outcomes of reading files in another process, and how many MB that took. Nothing is printed to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", READER, *map(str, paths)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""
    outcomes, memory = json.loads(done.stdout)
    return outcomes, memory


@pytest.mark.slow
@pytest.mark.parametrize("form", ["RGBA.png", "RGBA.webp", "thin.png"])
def test_the_memory_for_the_largest_images(form: str, tmp_path: Path) -> None:
    """Of all forms these need the most."""
    mode, ending = form.split(".")
    side = int((MOST_MEGAPIXELS * 10**6) ** 0.5)
    path = tmp_path / f"large.{ending}"
    if mode == "thin":
        mode, size, box = "L", (1, MOST_MEGAPIXELS * 10**6), (0, 1000, 1, 30_000_000)
    else:
        size, box = (side, side), (1000, 1000, 2000, 6000)
    image = Image.new(mode, size)
    image.paste((0, 0, 0, 255) if mode == "RGBA" else 200, box)
    image.save(path, lossless=True, method=0)  # other formats than WebP ignore these
    outcomes, memory = read_apart(path)
    assert outcomes == ["torch.Size([28, 28])"]
    assert memory < 1024


def png(width: int, height: int, data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of 8-bit grey pixels, with these further chunks."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n"
    for kind, content in [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]:
        file += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return file


def tiff(tags: dict[int, int], data: bytes) -> bytes:
    """A TIFF file of 10 x 10 8-bit grey pixels, with these further tags; `data` is at the position 400."""
    tags = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1} | tags
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries).ljust(400, b"\0") + data


def same_data_for_many_tags(count: int, size: int) -> bytes:
    """EXIF data with tags that all have the same value, which is stored once."""
    place = 8 + 2 + 12 * count + 4
    tags = b"".join(struct.pack("<HHII", 1000 + number, 7, size, place) for number in range(count))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, count) + tags + bytes(4 + size)


def repeated_scans(count: int) -> bytes:
    """A progressive JPEG file whose last scan is repeated. A decoder passes over the whole image for each."""
    written = io.BytesIO()
    Image.linear_gradient("L").save(written, "JPEG", progressive=True)
    content = written.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + content[-2:]


def test_attacks(tmp_path: Path) -> None:
    """Files that are made to take much memory, or to be waited for: each is one line, and soon."""
    blank, bomb = zlib.compress(bytes(51 * 50)), zlib.compress(bytes(500_000_000))
    too_large = f"more than {MOST_MEGAPIXELS} megapixels: reduce the image first"
    unreadable = "cannot be read as an image (PNG, JPEG, GIF, BMP, TIFF, WEBP or PPM)"
    contents = {
        "pixels.png": (png(MOST_MEGAPIXELS * 1000, 1001, b""), too_large),
        "more_pixels.png": (png(10**9, 10**9, b""), too_large),
        "tile.tif": (tiff({322: 40_000, 323: 40_000, 324: 400, 325: len(bomb)}, bomb), too_large),
        "strip.tif": (tiff({278: 4_000_000_000, 273: 400, 279: 100}, bytes(100)), unreadable),
        "damaged.tif": (tiff({278: 10, 273: 400, 279: 100}, bytes(100)), unreadable),  # libtiff would write to stderr
        "text.png": (png(50, 50, blank, (b"zTXt", b"k\0\0" + bomb)), unreadable),
        "profile.png": (png(50, 50, blank, (b"iCCP", b"k\0\0" + bomb)), unreadable),
        "data.png": (png(50, 50, bomb), "the image is blank"),
        "scans.jpg": (repeated_scans(7000), f"more than {MOST_SCANS} scans"),
        "comments.gif": (b"GIF89a\x09\x00\x09\x00\x00\x00\x00" + b"!\xfe\x01a\x00" * 2_100_000, "larger than 10 MB"),
        "size.ppm": (b"P6 " + b"9" * 100 + b" 5 255\n", unreadable),
        "page.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", unreadable),
    }
    if sys.version_info >= (3, 11):  # no Pillow for Python 3.10 has a limit for this
        exif = same_data_for_many_tags(10_000, 200_000)
        contents["exif.png"] = (png(50, 50, blank, (b"eXIf", exif.removeprefix(b"Exif\0\0"))), "the image is blank")
    expected = {}
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        expected[name] = message
    for name in ("large.webp", "larger.png"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(MOST_MEGABYTES * 10**6 + 1)
        expected[name] = f"is larger than {MOST_MEGABYTES} MB"
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    expected |= {name: f"{tmp_path / name} is not a regular file" for name in ("pipe.png", "endless.png")}
    (tmp_path / "folder.png").mkdir()
    expected["folder.png"] = "is not a regular file"
    outcomes, memory = read_apart(*(tmp_path / name for name in expected))
    for name, outcome in zip(expected, outcomes, strict=True):
        assert name in outcome
        assert expected[name] in outcome
        assert "\n" not in outcome
    assert memory < 300


def test_not_enough_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "digit.png")

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(UserError, match=r"not enough memory for the image in .*digit\.png"):
        read_digit(tmp_path / "digit.png")


def test_a_link_is_followed(test_set: ImageSet, tmp_path: Path) -> None:
    large(Image.fromarray(test_set.images[0].numpy())).save(tmp_path / "digit.png")
    (tmp_path / "link.png").symlink_to("digit.png")
    assert torch.equal(read_digit(tmp_path / "link.png"), read_digit(tmp_path / "digit.png"))


def test_a_photograph_with_a_second_picture(test_set: ImageSet, tmp_path: Path) -> None:
    """Some phones append one to a JPEG file (MPO)."""
    image = large(Image.fromarray(test_set.images[0].numpy()))
    image.save(tmp_path / "one.jpg")
    image.save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=[image.rotate(90)])
    assert torch.equal(read_digit(tmp_path / "two.jpg"), read_digit(tmp_path / "one.jpg"))
