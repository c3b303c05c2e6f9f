"""`python -m labml_bn.predict`, as a user runs it."""

from pathlib import Path

import pytest
from PIL import Image

from labml_bn.data.mnist import ImageSet
from tests.conftest import Run
from tests.data.test_digit_image import large


def test_command(command: Run, trained: Path, test_set: ImageSet, work: Path) -> None:
    for number, ending in enumerate(("png", "jpg", "bmp")):
        large(Image.fromarray(test_set.images[number].numpy())).save(work / f"{number}.{ending}")
    done = command("predict", trained, "0.png", "1.jpg", "2.bmp")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["0.png: 7", "1.jpg: 2", "2.bmp: 1"]
    assert all(line.endswith("%)") for line in lines)


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


def test_no_arguments(command: Run) -> None:
    done = command("predict")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the following arguments are required: RUN, IMAGE")
