"""Reading files that may come from someone else, such as those of a run: regular files, with limits.

A file that a program expects can be anything: a symbolic link, a named pipe, a gigabyte of brackets. So it is opened
without following a link and without waiting, and its size, its depth and what its aliases expand to are checked before
it is parsed.
"""

import contextlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from labml_bn.cli.errors import UserError, reason

#: The largest file that is read as a whole, in bytes. labml's description of a run has about 10,000.
LIMIT = 1 << 20

#: How deeply lists and mappings in YAML can be nested. labml's go four deep.
DEPTH = 20

#: How many keys and values a YAML file can have. labml's have about 500.
VALUES = 10_000

#: The longest number in YAML, in characters. PyYAML needs half a minute for one of a million digits to the base 60, and
#: Python does not print one of more than 4300 digits.
DIGITS = 1000

# The C loader, if there is one, is ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class TooLargeError(ValueError):
    """YAML that is nested too deeply, or whose aliases expand to too much."""


class UnreadableError(UserError):
    """A file that is not read: it is not a regular file, or it exceeds a limit."""


def open_regular(path: Path, flags: int = os.O_RDONLY, *, follow_links: bool = False) -> int:
    """A descriptor of a regular file; `flags` are those of `os.open`. If the user chose the file, it may be a link.

    Raises UnreadableError if it is anything else, OSError if it cannot be opened.
    """
    with contextlib.suppress(FileNotFoundError):
        check_regular(path, follow_links=follow_links)
    no_link = 0 if follow_links else _NO_LINK  # what is put there since the check is not followed either
    return os.open(path, flags | no_link | _NO_WAIT, 0o666)


def check_regular(path: Path, *, follow_links: bool = False) -> None:
    """Raise UnreadableError if there is anything but a regular file, FileNotFoundError if there is nothing."""
    mode = (path.stat() if follow_links else path.lstat()).st_mode
    if stat.S_ISLNK(mode):
        raise UnreadableError(f"{path} is a symbolic link, which is not followed")
    if not stat.S_ISREG(mode):
        raise UnreadableError(f"{path} is not a regular file")


def open_to_read(path: Path, limit: int = LIMIT, *, follow_links: bool = False) -> BinaryIO:
    """A regular file of at most `limit` bytes, opened for reading. Raises as `open_regular` does."""
    file = os.fdopen(open_regular(path, follow_links=follow_links), "rb")
    if os.fstat(file.fileno()).st_size > limit:
        file.close()
        raise UnreadableError(f"{path} is larger than {limit >> 20} MiB")
    return file


def open_to_append(path: Path) -> BinaryIO:
    """A regular file, created if there is none, to read and to append to, unbuffered. Raises as `open_regular` does."""
    return os.fdopen(open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "r+b", buffering=0)


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """The content of a regular file. Raises UnreadableError as `open_to_read` does, and if it cannot be read.

    A file that does not exist raises FileNotFoundError.
    """
    try:
        with open_to_read(path, limit) as file:
            return file.read(limit)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(f"cannot read {path}: {reason(error)}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty one if the file is missing or damaged. Raises UnreadableError."""
    try:
        content = parse_yaml(read_bytes(path).decode())
    except TooLargeError as error:
        raise UnreadableError(f"{path}: {error}") from error
    except (FileNotFoundError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if the file is missing or damaged. Raises UnreadableError."""
    try:
        content = parse_json(read_bytes(path))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def parse_json(text: str | bytes) -> Any:
    """A JSON value. Raises ValueError if it is damaged or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_yaml(text: str) -> Any:
    """YAML as Python values. Raises yaml.YAMLError if it is damaged, ValueError for a value that its tag does not fit.

    A text that is nested more than `DEPTH` deep raises TooLargeError, as does one with more than `LIMIT` characters or
    `VALUES` values, each alias replaced by what it stands for.
    """
    if re.search("^%", text, re.MULTILINE):  # libyaml's time for directives grows with the square of their number
        raise TooLargeError("it has directives, which no file of a run needs")
    _check_size(text)
    try:
        return yaml.load(text, Loader=_LOADER)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # as for `!!bool x`
        raise ValueError("a value does not match its tag") from error


def _check_size(text: str) -> None:
    """Raise TooLargeError for YAML that is too large or too deep. It is read as a flat sequence of events."""
    anchors: dict[str, _Size] = {}
    open_anchors: list[str | None] = []
    sizes = [_Size()]  # of the document, and of each list and mapping that is open
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            open_anchors.append(event.anchor)
            sizes.append(_Size(1, 1))
            if len(open_anchors) > DEPTH:
                raise TooLargeError(f"it is nested more than {DEPTH} deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            size, anchor = sizes.pop(), open_anchors.pop()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in open_anchors:
                raise TooLargeError("a value contains itself")
            size, anchor = anchors.get(str(event.anchor), _Size(1, 1)), None
        elif isinstance(event, yaml.ScalarEvent):
            size, anchor = _Size(1, len(event.value)), event.anchor
            may_be_number = event.tag is not None or (not event.style and event.value[:1] in "+-.0123456789")
            if may_be_number and size.characters > DIGITS:
                raise TooLargeError(f"a number has more than {DIGITS} characters")
        else:
            continue
        if anchor is not None:
            anchors[anchor] = size
        sizes[-1] += size
        if sizes[-1].values > VALUES or sizes[-1].characters > LIMIT:
            raise TooLargeError(f"it has more than {VALUES:,} values or {LIMIT >> 20} MiB, with its aliases expanded")


@dataclass(frozen=True)
class _Size:
    """How much a part of a YAML file is, each alias replaced by what it stands for."""

    values: int = 0
    characters: int = 0

    def __add__(self, other: "_Size") -> "_Size":
        return _Size(self.values + other.values, self.characters + other.characters)
