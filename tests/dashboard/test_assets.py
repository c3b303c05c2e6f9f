"""The files of the page: all are served from this machine, and their checksums are verified."""

import re

import pytest

from labml_bn.cli.errors import UserError
from labml_bn.dashboard import assets, page


def test_every_file_that_the_page_loads_is_served() -> None:
    files = assets.files()
    wanted = re.findall(r'(?:src|href)="([^"]+)"', page.html())
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


def test_a_missing_package() -> None:
    with pytest.raises(UserError, match="needs the package no_such_package"):
        assets.package_folder("no_such_package")
