"""What the page is made of: files of this machine, none of them other than it should be."""

import re
from pathlib import Path

import pytest

from labml_bn.dashboard import assets
from labml_bn.errors import UserError


def test_every_part_of_the_page_is_served() -> None:
    files = assets.files()
    wanted = re.findall(r'(?:src|href)="([^"]+)"', assets.page())
    assert len(wanted) >= 10
    assert all(name in files for name in wanted)
    assert all(path.is_file() for path in files.values())


def test_every_font_that_the_icons_may_use_is_served() -> None:
    files = assets.files()
    name = "/assets/fontawesome/static/fontawesome/css/all.min.css"
    fonts = set(re.findall(r"\.\./webfonts/(fa-(?:solid|regular)[\w-]*\.woff2)", files[name].read_text()))
    assert len(fonts) == 2
    assert all(f"/assets/fontawesome/static/fontawesome/webfonts/{font}" in files for font in fonts)


def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mpld3/js/d3.v5.min.js"
    monkeypatch.setitem(assets._SHA256, name, "0" * 64)
    with pytest.raises(UserError, match=r"d3\.v5\.min\.js is missing or not the file that it should be"):
        assets.files()


def test_a_page_that_asks_others_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "index.html").write_text('<script src="https://elsewhere.example/d3.js"></script>')
    monkeypatch.setattr(assets, "_package", lambda name: tmp_path)
    with pytest.raises(UserError, match="asks other machines"):
        assets.page()


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(UserError, match="needs the package no_such_package"):
        assets._package("no_such_package")
