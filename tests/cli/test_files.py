"""Files replaced atomically, damaged YAML, and the names of files and folders."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labml_bn.cli.errors import UsageError
from labml_bn.cli.files import check_writable, open_regular, read_yaml, relative_path, replacing, resolve_folder


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
    assert sorted(file.name for file in tmp_path.iterdir()) == [".a.part.txt", "a.txt"]


@pytest.mark.parametrize("content", [None, b"", b"[1", b"\xff", b"- 1", b"3", b"a: b: c", b"[" * 2000])
def test_yaml_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.yaml").write_bytes(content)
    assert read_yaml(tmp_path / "a.yaml") == {}


def test_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\nb: {c: x}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1, "b": {"c": "x"}}


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


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe without a writer is not waited for."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
