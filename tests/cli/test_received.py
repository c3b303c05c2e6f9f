"""Files that may come from someone else: only regular ones are opened, and large or deep ones are not parsed."""

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from labml_bn.cli.received import (
    DEPTH,
    LIMIT,
    UnreadableError,
    open_to_append,
    open_to_read,
    parse_json,
    parse_yaml,
    read_bytes,
    read_json,
    read_yaml,
)

OTHERS = ["a link", "a broken link", "a pipe", "a folder", "a device", "a socket"]


def create(path: Path, kind: str) -> None:
    """Something that is not a regular file."""
    other = path.with_name("other")
    if kind == "a link":
        other.write_text("a: 1")
        path.symlink_to(other)
    elif kind == "a broken link":
        path.symlink_to(other)
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))  # a socket's path is short


@pytest.mark.parametrize("kind", OTHERS)
def test_only_regular_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.yaml"
    create(path, kind)
    for read in (read_bytes, read_yaml, read_json, open_to_append):
        with pytest.raises(UnreadableError, match=r"a\.yaml"):
            read(path)
    if kind == "a link":
        assert (tmp_path / "other").read_text() == "a: 1"
    assert (tmp_path / "other").exists() == (kind == "a link")


def test_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"#" * LIMIT)
    assert read_yaml(path) == {}
    path.write_bytes(b"#" * (LIMIT + 1))
    for read in (read_bytes, read_yaml, read_json):
        with pytest.raises(UnreadableError, match=r"a\.yaml is larger than 1 MiB"):
            read(path)
    assert len(read_bytes(path, LIMIT + 1)) == LIMIT + 1


def test_a_missing_file(tmp_path: Path) -> None:
    assert read_yaml(tmp_path / "a") == read_json(tmp_path / "a") == {}
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "a")


def test_appending(tmp_path: Path) -> None:
    for text in (b"one", b"two"):
        with open_to_append(tmp_path / "a") as file:
            assert file.write(text) == 3
    assert (tmp_path / "a").read_bytes() == b"onetwo"


@pytest.mark.parametrize("content", [b"", b"[1", b"\xff", b"- 1", b"3", b"a: b: c", b"!!bool x", b"!!int ''", b"*a"])
def test_damaged_yaml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    assert read_yaml(tmp_path / "a.yaml") == {}


@pytest.mark.parametrize("content", [b"", b"[1", b"\xff", b"[1]", b"3", b"[" * 100_000, b'{"a":' * 100_000])
def test_damaged_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") == {}


def test_valid_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &x 1\nb: {c: x, d: *x}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1, "b": {"c": "x", "d": 1}}
    (tmp_path / "a.json").write_text('{"a": [1, "x"]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, "x"]}


def bomb(merge: str = "") -> str:
    """Twelve lists, each of ten aliases of the one before it: 10^12 values in 0.5 KB."""
    lines = ["a: &a {x: 1}"]
    for one, name in zip("abcdefghijk", "bcdefghijkl", strict=True):
        lines.append(f"{name}: &{name} {{ {merge}: [{', '.join([f'*{one}'] * 10)}] }}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 50_000, "nested more than 20 deep"),
        ("- " * 50_000, "nested more than 20 deep"),
        ("{a: " * 50_000, "nested more than 20 deep"),
        ("? " * 50_000, "nested more than 20 deep"),
        ("a: &a [*a]", "a value contains itself"),
        (bomb("x"), "more than 10,000 values or 1 MiB, with its aliases expanded"),
        (bomb("<<"), "more than 10,000 values or 1 MiB, with its aliases expanded"),
        ("a: &a " + "x" * 9000 + "\nb: [" + "*a, " * 200 + "]", "values or 1 MiB, with its aliases expanded"),
        ("\n".join(f"{number * (2**61 - 1)}: 1" for number in range(1, 20_000)), "more than 10,000 values"),  # one hash
        ("1:" * 400_000 + "1", "a number has more than 1000 characters"),
        ("!!int '" + "1:" * 400_000 + "1'", "a number has more than 1000 characters"),
        ("a: 0x" + "f" * 9000, "a number has more than 1000 characters"),  # Python does not print it
        ("%TAG !k! x\n" * 60_000 + "--- 1", "it has directives"),
    ],
)
def test_yaml_that_would_take_all_memory_or_time(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UnreadableError, match=rf"a\.yaml: .*{message}"):
        read_yaml(tmp_path / "a.yaml")


def test_as_deep_as_allowed() -> None:
    parse_yaml("[" * DEPTH + "]" * DEPTH)


def test_long_texts() -> None:
    """Only numbers are limited."""
    text = "layers=" + "20C5-" * 1000
    assert parse_yaml(yaml.safe_dump({"comment": text, "commit_message": "1" * 5000 + " lines\n"}))["comment"] == text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_all_that_is_within_the_limits_is_read(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value)) == yaml.safe_load(yaml.safe_dump(value))


@given(st.text())
def test_any_text(text: str) -> None:
    """Parsing ends with a value or with one of two errors."""
    for parse in (parse_yaml, parse_json):
        with contextlib.suppress(ValueError, yaml.YAMLError):
            parse(text)


def test_a_file_that_the_user_chose_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "device").symlink_to("/dev/zero")
    with open_to_read(tmp_path / "link", follow_links=True) as file:
        assert file.read() == b"content"
    with pytest.raises(UnreadableError, match="device is not a regular file"):
        open_to_read(tmp_path / "device", follow_links=True)
