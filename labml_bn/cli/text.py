"""Text for people: tables in aligned columns, losses, lengths of time, names from elsewhere."""

import itertools
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

_GAP = "  "
_INDENT = "    "

#: A narrower terminal is treated as if it had this many columns.
_NARROWEST = 60

#: Within the width of a terminal, a last column with at least this width is wrapped in its place.
_ENOUGH = 32


def terminal_width() -> int | None:
    """The columns of the terminal that standard output is; None if it is a file or a pipe."""
    return max(_NARROWEST, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def table(rows: Sequence[Sequence[Any]], width: int | None = None) -> str:
    """Rows in aligned columns, integers to the right; the first row is the heading.

    In a table that is wider than `width`, the columns that do not fit are below the first ones, in indented lines for
    each row.
    """
    widths = [max(len(str(value)) for value in column) for column in zip(*rows, strict=True)]
    groups = _groups(widths, width)
    return "\n".join(line for row in rows for group in groups for line in _lines(row, widths, group, width))


def _groups(widths: Sequence[int], width: int | None) -> list[range]:
    """The columns that are beside each other: as many as fit into `width`."""
    starts, used = [0], 0
    for column, needed in enumerate(widths):
        wrapped = min(needed, _ENOUGH) if column == len(widths) - 1 else needed
        if width is not None and used > 0 and used + wrapped > width:
            starts.append(column)
            used = len(_INDENT)
        used += needed + len(_GAP)
    return [range(*ends) for ends in itertools.pairwise([*starts, len(widths)])]


def _lines(row: Sequence[Any], widths: Sequence[int], group: range, width: int | None) -> list[str]:
    """The cells of these columns on one line, or on several if the last one is wrapped; none if they are empty."""

    def cell(column: int) -> str:
        value = row[column]
        return str(value).rjust(widths[column]) if isinstance(value, int) else str(value).ljust(widths[column])

    indent = _INDENT if group.start > 0 else ""
    line = (indent + _GAP.join(map(cell, group))).rstrip()
    if width is None or len(line) <= width:
        return [line] if line or group.start == 0 else []
    before = len(indent) + sum(widths[column] + len(_GAP) for column in group[:-1])
    return textwrap.wrap(line, width, subsequent_indent=" " * before, break_on_hyphens=False)


def paragraph(text: str, width: int | None = None) -> str:
    """A sentence, in a terminal of `width` columns on lines of which all but the first are indented."""
    return textwrap.fill(text, width, subsequent_indent=_INDENT, break_on_hyphens=False) if width else text


def loss(value: float) -> str:
    """A loss with four decimals, `0.0342`, or a huge one in scientific notation, `5.04e+32`."""
    return f"{value:.4f}" if value < 1e6 else f"{value:.2e}"


def duration(seconds: float) -> str:
    """A length of time: `42.0 s`, `3 min 5 s`, `1 h 2 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def printable(text: str) -> str:
    """A text without characters that would act on a terminal or that no encoding has: they are written `\\x1b`."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
