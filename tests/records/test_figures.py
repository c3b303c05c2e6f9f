"""Figures and pages as files: complete or not written, and needing no other file."""

from html.parser import HTMLParser
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


def test_a_page(figure: Figure, tmp_path: Path) -> None:
    figures.save_page([["run", "final"], ["<b>a & b</b>", "99 %"]], figure, tmp_path / "a.html")
    cells: list[str] = []
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: object) -> None:
            tags.append(tag)

        def handle_data(self, data: str) -> None:
            if tags and tags[-1] in {"td", "th"} and data.strip():
                cells.append(data)

    Reader().feed((tmp_path / "a.html").read_text())
    assert cells == ["run", "final", "<b>a & b</b>", "99 %"]
    assert "svg" in tags
    assert not {"script", "link", "img", "b"} & set(tags)


def test_nothing_is_left_if_it_fails(figure: Figure, tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match=r"^cannot write .*a\.png: Is a directory$"):
        figures.save(figure, tmp_path / "a.png")
    with pytest.raises(UserError, match="No such file or directory"):
        figures.save_page([["a"]], figure, tmp_path / "none" / "a.html")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
