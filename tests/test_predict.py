"""`python -m labml_bn.predict`, as a user runs it."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labml_bn.data.digit_image import read_digit
from labml_bn.data.mnist import ImageSet
from tests.conftest import Run
from tests.data.test_digit_image import large


def test_command(command: Run, trained: Path, test_set: ImageSet, work: Path) -> None:
    for number, ending in enumerate(("png", "jpg", "bmp")):
        large(Image.fromarray(test_set.images[number].numpy())).save(work / f"{number}.{ending}")
    done = command("predict", trained, "0.png", "1.jpg", "2.bmp")
    assert (done.returncode, done.stderr) == (0, f"{trained}: MNIST, norm=batch_norm\n")
    lines = done.stdout.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["0.png: 7", "1.jpg: 2", "2.bmp: 1"]
    assert all(re.search(r": \d \(\d+\.\d\d%\), \d \(\d+\.\d\d%\), \d \(\d+\.\d\d%\)$", line) for line in lines)


def test_a_checkpoint(command: Run, full_run: Path, test_set: ImageSet, work: Path) -> None:
    Image.fromarray(test_set.images[0].numpy()).save(work / "0.png")
    done = command("predict", full_run, "0.png", "--checkpoint", "last")
    assert done.returncode == 0
    assert done.stderr == f"{full_run}, last checkpoint (after 3,000 training images): MNIST, norm=batch_norm\n"
    assert done.stdout.startswith("0.png: 7 (")


def test_saved_as_seen(command: Run, trained: Path, test_set: ImageSet, work: Path) -> None:
    """The saved files are what `read_digit` gives, and are read as themselves."""
    for number in range(2):
        large(Image.fromarray(test_set.images[number].numpy())).save(work / f"{number}.jpg")
    done = command("predict", trained, "0.jpg", "1.jpg", "--save", "seen")
    assert done.returncode == 0
    assert sorted(path.name for path in (work / "seen").iterdir()) == ["0.png", "1.png"]
    for number in range(2):
        with Image.open(work / "seen" / f"{number}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), read_digit(work / f"{number}.jpg").numpy())
    again = command("predict", trained, "seen/0.png", "seen/1.png")
    assert [line.split(" (")[0] for line in again.stdout.splitlines()] == ["seen/0.png: 7", "seen/1.png: 2"]


def test_some_images_cannot_be_read(command: Run, trained: Path, test_set: ImageSet, work: Path) -> None:
    """The others are predicted and saved."""
    Image.fromarray(test_set.images[0].numpy()).save(work / "0.png")
    Image.new("L", (9, 9)).save(work / "blank.png")
    Image.fromarray(test_set.images[1].numpy()).save(work / "1.png")
    done = command("predict", trained, "0.png", "blank.png", "no.png", "1.png", "--save", "seen")
    assert done.returncode == 1
    assert [line.split(" (")[0] for line in done.stdout.splitlines()] == ["0.png: 7", "1.png: 2"]
    assert sorted(path.name for path in (work / "seen").iterdir()) == ["0.png", "1.png"]
    blank, missing, _, count = done.stderr.splitlines()
    assert blank == "error: blank.png: the image is blank"
    assert missing == "error: no.png does not exist"
    assert count == "error: 2 of 4 images could not be used"


def test_an_image_unlike_the_training_images(command: Run, trained: Path, work: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 50), dtype=np.uint8)
    Image.fromarray(noise).save(work / "noise.png")
    done = command("predict", trained, "noise.png")
    assert done.returncode == 0
    assert re.search(r"\); unlike the training images: distance \d\.\d{3}, limit \d\.\d{3}$", done.stdout.strip())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/0.png", "b/0.png", "--save", "seen"], "two images would be saved as seen/0.png"),
        (["a/0.png", "--save", "a"], "a/0.png is one of the images: save to another folder"),
        (["a/0.png", "--save", "a/0.png"], "a/0.png is not a folder"),
        (["a/0.png", "--save", "no/where"], "no/where: the folder no does not exist"),
    ],
)
def test_nowhere_to_save(command: Run, trained: Path, work: Path, arguments: list[str], message: str) -> None:
    for folder in "ab":
        (work / folder).mkdir()
        Image.new("L", (9, 9)).save(work / folder / "0.png")
    done = command("predict", trained, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "error: digit.png does not exist"),
        (b"", "cannot be read"),
        (b"text", "cannot be read"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read"),
    ],
)
def test_not_an_image(command: Run, trained: Path, work: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (work / "digit.png").write_bytes(content)
    done = command("predict", trained, "digit.png")
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_program_is_run(command: Run, environment: dict[str, str], trained: Path, work: Path) -> None:
    """A PostScript file would be given to Ghostscript."""
    (work / "bin").mkdir()
    (work / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {work / 'has_run'}\n")
    (work / "bin" / "gs").chmod(0o755)
    environment["PATH"] = f"{work / 'bin'}:{environment['PATH']}"
    (work / "digit.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    done = command("predict", trained, "digit.png")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: digit.png cannot be read as an image (PNG, JPEG, GIF, BMP, TIFF, WEBP or PPM)\n"
    assert not (work / "has_run").exists()


def test_no_arguments(command: Run) -> None:
    done = command("predict")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the following arguments are required: RUN, IMAGE")
