"""The files of the page: all are served from this machine, and their checksums are verified."""

import re
from pathlib import Path

import pytest

from labml_bn.cli.errors import UserError
from labml_bn.dashboard import assets


def test_every_file_that_the_page_loads_is_served() -> None:
    files = assets.files()
    wanted = re.findall(r'(?:src|href)="([^"]+)"', assets.page())
    assert len(wanted) >= 10
    assert all(name in files for name in wanted)
    assert all(path.is_file() for path in files.values())


def test_every_font_of_the_icons_is_served() -> None:
    files = assets.files()
    name = "/assets/fontawesome/static/fontawesome/css/all.min.css"
    fonts = set(re.findall(r"\.\./webfonts/(fa-(?:solid|regular)[\w-]*\.woff2)", files[name].read_text()))
    assert len(fonts) == 2
    assert all(f"/assets/fontawesome/static/fontawesome/webfonts/{font}" in files for font in fonts)


def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mpld3/js/d3.v5.min.js"
    monkeypatch.setitem(assets._SHA256, name, "0" * 64)
    with pytest.raises(
        UserError, match=r"d3\.v5\.min\.js is missing, or its checksum is wrong; reinstall the dashboard: pip install "
    ):
        assets.files()


def test_a_page_that_loads_files_from_other_hosts_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "index.html").write_text('<script src="https://elsewhere.example/d3.js"></script>')
    monkeypatch.setattr(assets, "_package", lambda name: tmp_path)
    with pytest.raises(UserError, match="this version of labml-app loads parts of its page from other hosts"):
        assets.page()


def test_a_missing_package() -> None:
    with pytest.raises(UserError, match="needs the package no_such_package"):
        assets._package("no_such_package")
