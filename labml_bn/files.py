"""Writing files whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from labml_bn.errors import UsageError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give another name to write to in the block; the file gets its own name when the block has ended well.

    Whatever happens, nothing half-written is left, and what was at `path` stays until then.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: Path, endings: tuple[str, ...]) -> None:
    """Raise UsageError where a file cannot be written to `path`: better before the work than after it."""
    if path.suffix.lower() not in endings:
        raise UsageError(f"{path}: the name must end in {' or '.join(endings)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")
