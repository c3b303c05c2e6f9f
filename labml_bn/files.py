"""Naming folders, and writing files whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from labml_bn.errors import UsageError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where there is one, is ten times as fast


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give another name to write to in the block; the file gets its own name when the block has ended well.

    What was at `path` stays until then, whatever happens, also to the machine. Nothing half-written is left, unless the
    process is killed: then it is under the other name, which begins with a dot.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield part
        sync(part)
        part.replace(path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return when the disk has what was written to a file, or a folder's names of files."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such thing
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values in a YAML file, or nothing where it is missing or damaged."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def check_writable(path: Path, endings: tuple[str, ...]) -> None:
    """Raise UsageError where a file cannot be written to `path`: better before the work than after it."""
    if path.suffix.lower() not in endings:
        raise UsageError(f"{path}: the name must end in {' or '.join(endings)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")


def folder(path: str) -> Path:
    """The folder that a setting names; `~` is the home. Raises UsageError for what cannot be a folder's name."""
    try:
        return Path(os.fsdecode(os.fsencode(path))).expanduser().resolve()
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(f"{path!r} cannot be a folder: {error}") from error
