"""Text for people: tables in aligned columns, lengths of time."""

from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[Sequence[Any]]) -> str:
    """Rows in aligned columns, integers to the right; the first row is the heading."""

    def cell(value: Any, width: int) -> str:
        return str(value).rjust(width) if isinstance(value, int) else str(value).ljust(width)

    widths = [max(len(str(value)) for value in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(cell, row, widths)).rstrip() for row in rows)


def duration(seconds: float) -> str:
    """A length of time: `42.0 s`, `3 min 5 s`, `1 h 2 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
