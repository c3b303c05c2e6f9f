"""The changes of labml's page fit the installed version of it, and another version is refused."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from labml_bn.cli.errors import UserError
from labml_bn.dashboard import assets, page

STATIC = assets.package_folder("labml_app") / "static"
BUNDLE = (STATIC / "js" / "bundle.min.js").read_text()


def test_every_change_is_made() -> None:
    """`script` raises an error if one is not; what is changed is no longer there."""
    changed = page.script()
    for pattern, _, new in page._CHANGES:
        assert re.search(pattern, BUNDLE)
        assert r"\1" in new or r"\g<0>" in new or not re.search(pattern, changed), pattern


@pytest.mark.parametrize("pattern", [pattern for pattern, _, _ in page._CHANGES])
def test_another_script_is_refused(pattern: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that lacks a single text that is changed."""
    (tmp_path / "static" / "js").mkdir(parents=True)
    (tmp_path / "static" / "js" / "bundle.min.js").write_text(re.sub(pattern, "", BUNDLE))
    monkeypatch.setattr(page, "package_folder", lambda name: tmp_path)
    with pytest.raises(UserError, match=r"^this version of labml-app has another page .*pip install"):
        page.script()


def test_every_helper_is_there() -> None:
    helpers = re.findall(r"^    (\w+)\(", Path(page.__file__).with_suffix(".js").read_text(), flags=re.MULTILINE)
    called = {name for _, _, new in page._CHANGES for name in re.findall(r"labmlBn\.(\w+)", new)}
    assert called
    assert called <= set(helpers)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_scripts_are_javascript(tmp_path: Path) -> None:
    (tmp_path / "bundle.js").write_text(page.script())
    for script in (tmp_path / "bundle.js", Path(page.__file__).with_suffix(".js")):
        subprocess.run(["node", "--check", script], check=True)


def test_a_page_that_loads_files_from_other_hosts_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    html = (STATIC / "index.html").read_text()
    monkeypatch.setattr(page, "package_folder", lambda name: tmp_path)
    for changed, message in [
        (html + '<script src="https://elsewhere.example/d3.js"></script>', "loads parts of its page from other hosts"),
        (html.replace("d3.v6", "d3.v7"), "has another page"),
    ]:
        (tmp_path / "static" / "index.html").write_text(changed)
        with pytest.raises(UserError, match=f"^this version of labml-app {message}"):
            page.html()
