"""Files replaced atomically, and the names of files and folders."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labml_bn.cli.errors import UsageError
from labml_bn.cli.files import check_writable, delete_leftovers, relative_path, replacing, resolve_folder


def test_replacing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def replace_and_fail() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        replace_and_fail()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = "import os, pathlib, sys\nfrom labml_bn.cli.files import replacing\n"
    code += "with replacing(pathlib.Path(sys.argv[1])) as part:\n    part.write_text('half'); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"
    part, _ = sorted(tmp_path.iterdir())
    assert part.match(".a.*.part.txt")
    delete_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_replaced_and_not_followed(tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "a.txt"
    other.write_text("other")
    path.symlink_to(other)
    (tmp_path / ".a.part.txt").symlink_to(other)  # a name that can be guessed
    with replacing(path) as part:
        assert part.stat().st_size == 0
        part.write_text("new")
    assert path.read_text() == "new"
    assert not path.is_symlink()
    assert other.read_text() == "other"


@pytest.mark.parametrize(("mode", "permissions"), [(0o666, 0o644), (0o600, 0o600)])
def test_permissions(tmp_path: Path, mode: int, permissions: int) -> None:
    before = os.umask(0o022)
    try:
        with replacing(tmp_path / "a.txt", mode) as part:
            assert part.stat().st_mode & 0o777 == permissions
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == permissions


@pytest.mark.parametrize(
    ("name", "message"), [("a.gif", "must end in .png or .svg"), ("none/a.png", "the folder .*none does not exist")]
)
def test_check_writable(tmp_path: Path, name: str, message: str) -> None:
    check_writable(tmp_path / "a.PNG", (".png", ".svg"))
    with pytest.raises(UsageError, match=message):
        check_writable(tmp_path / name, (".png", ".svg"))


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert relative_path(Path("a/../b")) == "b"
    assert relative_path(tmp_path / "a", tmp_path / "b" / "c") == "../../a"


def test_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert resolve_folder(str(tmp_path / "link")) == (tmp_path / "folder").resolve()
    assert resolve_folder(str(tmp_path / "link"), follow_links=False) == tmp_path / "link"


@pytest.mark.parametrize("name", ["~no-such-user/data", "a\0b", "\ud800", "loop"])
def test_impossible_folders(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "loop":
        Path(name).symlink_to(name)
        if sys.version_info >= (3, 13):
            pytest.skip("Path.resolve takes loops as they are")
    with pytest.raises(UsageError, match="cannot be a folder"):
        resolve_folder(name)
