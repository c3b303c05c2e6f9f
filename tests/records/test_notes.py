"""What the user has written about a run, in a file of its folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from labml_bn.cli.errors import UsageError
from labml_bn.records import notes


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert notes.read(tmp_path) == {}
    notes.write(tmp_path, {"note": "γ is 1:\n- yes # \"no\" 'maybe' \0", "name": "first"})
    notes.write(tmp_path, {"name": "second", "favourite_configs": ["norm"]})
    written = {"note": "γ is 1:\n- yes # \"no\" 'maybe' \0", "name": "second", "favourite_configs": ["norm"]}
    assert notes.read(tmp_path) == written
    assert json.loads((tmp_path / "notes.json").read_text(encoding="utf-8")) == written
    assert [path.name for path in tmp_path.iterdir()] == ["notes.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[1]", b"5", b'{"note": 5}', b'{"note": "\\ud800"}', b"[" * 9999]
)
def test_a_damaged_file_is_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.json").write_bytes(content)
    assert notes.read(tmp_path) == {}
    notes.write(tmp_path, {"note": "again"})
    assert notes.read(tmp_path) == {"note": "again"}


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "notes.json").mkdir()
    with pytest.raises(OSError, match="notes"):
        notes.write(tmp_path, {"note": "lost"})
    with pytest.raises(OSError, match="notes"):
        notes.write(tmp_path / "nowhere", {"note": "lost"})


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("note", "", True),
        ("selected_configs", [], True),
        ("selected_configs", ["norm", "epochs"], True),
        ("selected_configs", "norm", False),
        ("selected_configs", [1], False),
        ("note", None, False),
        ("note", ["norm"], False),
        ("tags", ["γ", ""], True),
        ("tags", ["\ud800"], False),
        ("note", "\ud800", False),
        ("uuid", "0", False),
    ],
)
def test_what_can_be_written(name: str, value: Any, valid: bool) -> None:
    assert notes.is_valid(name, value) == valid


@pytest.mark.parametrize(
    ("tag", "is_one"),
    [("good", True), ("γ 2", True), ("x" * 100, True)]
    + [(tag, False) for tag in ("", " ", " a", "a ", "a,b", "a\nb", "\x1b[2J", "x" * 101, "\ud800")],
)
def test_tags(tag: str, is_one: bool) -> None:
    assert notes.is_tag(tag) == is_one
    if is_one:
        assert notes.tagged(["old"], [tag, "old", tag]) == ["old", tag]
    else:
        with pytest.raises(UsageError, match="cannot be a tag"):
            notes.tagged(["old"], [tag])


def test_the_number_of_tags() -> None:
    many = [str(number) for number in range(50)]
    assert notes.tagged(many[:49], ["49"]) == many
    with pytest.raises(UsageError, match="51 tags are too many: a run has at most 50"):
        notes.tagged(many, ["50"])
