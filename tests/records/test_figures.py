"""Figures as files: complete or not written."""

from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from labml_bn.cli.errors import UserError
from labml_bn.records import figures


@pytest.fixture
def figure() -> Figure:
    drawn = Figure(figsize=(2, 1))
    drawn.add_subplot().plot([1, 2], [3, 4])
    return drawn


def test_the_ending_decides_the_format(figure: Figure, tmp_path: Path) -> None:
    figures.save(figure, tmp_path / "a.png")
    figures.save(figure, tmp_path / "a.SVG")
    assert matplotlib.image.imread(tmp_path / "a.png").shape[:2] == (100, 200)
    assert "<svg" in (tmp_path / "a.SVG").read_text()


def test_nothing_is_left_if_it_fails(figure: Figure, tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match=r"^cannot write .*a\.png: Is a directory$"):
        figures.save(figure, tmp_path / "a.png")
    with pytest.raises(UserError, match="No such file or directory"):
        figures.save(figure, tmp_path / "none" / "a.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
