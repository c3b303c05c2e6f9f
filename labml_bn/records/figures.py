"""Saving figures. `comparison/` and `trained/mistakes.py` draw them."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from labml_bn.cli.errors import os_errors_as
from labml_bn.cli.files import replacing

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports on its caches


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically, in the format of the file's ending. Raises UserError if that fails."""
    with os_errors_as(f"cannot write {path}"), replacing(path) as part, _without_warnings():
        figure.savefig(part, format=path.suffix[1:].lower())


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Without matplotlib's warnings of characters that its font lacks: the name of a folder may have any."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield
