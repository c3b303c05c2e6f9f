"""Writing files atomically, and the names of files and folders that users type."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from labml_bn.cli.errors import UsageError


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Replace a file atomically: temporary file, fsync, rename. A symbolic link at `path` is replaced, not followed.

    Gives the temporary file to write to, which is new and empty; `mode` are its permissions, as far as the umask allows
    them. If the block raises, or the machine fails, `path` is as it was before. Only a killed process leaves its
    temporary file behind, whose name begins with a dot.
    """
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    try:
        yield part
        sync(part)
        part.replace(path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def delete_leftovers(folder: Path) -> None:
    """Delete the temporary files of `replacing` in a folder that no other process writes to."""
    for part in folder.glob(".*.part*"):
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
