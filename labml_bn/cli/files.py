"""Writing files atomically, reading YAML, and the names of files and folders that users type."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from labml_bn.cli.errors import UsageError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader, if there is one, is ten times as fast


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file atomically: temporary file, fsync, rename.

    Gives the temporary file to write to. If the block raises, or the machine fails, `path` is as it was before. Only
    a killed process leaves its temporary file behind, whose name begins with a dot.
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
    """Flush a file, or the entries of a folder, to the disk (fsync)."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no fsync of a folder
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, to read its bytes.

    Raises OSError for anything else: a pipe would be waited for, and a device can be endless.
    """
    # Without O_NONBLOCK, opening a named pipe waits for a writer. For regular files it has no meaning.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = open(path, "rb", opener=lambda name, _: os.open(name, flags))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty one if the file is missing or damaged."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def check_writable(path: Path, endings: tuple[str, ...]) -> None:
    """Raise UsageError if `path` cannot be an output file: before the work is done, not after it."""
    if path.suffix.lower() not in endings:
        raise UsageError(f"{path}: the name must end in {' or '.join(endings)}")
    check_parent(path)


def check_parent(path: Path) -> None:
    """Raise UsageError if the folder in which `path` is does not exist."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")


def relative_path(path: Path, start: Path | str = ".") -> str:
    """`path` relative to the folder `start`; absolute if there is no way between them (two drives of Windows)."""
    try:
        return os.path.relpath(path, start)
    except ValueError:
        return str(path.absolute())


def resolve_folder(name: str, *, follow_links: bool = True) -> Path:
    """The absolute path of a folder that a setting names; `~` is the home. Raises UsageError for an impossible name."""
    try:
        path = Path(os.fsdecode(os.fsencode(name))).expanduser()
        return path.resolve() if follow_links else path.absolute()
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(f"{name!r} cannot be a folder: {error}") from error
