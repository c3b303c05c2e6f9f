"""A table of runs in the formats of other programs: CSV and JSON, with full values.

Times are in ISO 8601 and in UTC, lengths of time in seconds. A number that a run lacks is an empty cell in CSV, null in
JSON. Texts may be someone else's. In CSV, a spreadsheet takes a cell that begins with = + - or @ for a formula, so
such a text gets an apostrophe before it; what would act on a terminal is written `\\x1b`; and a text is cut to the size
of a spreadsheet's cell. JSON has all texts as they are, with escapes such as \\u001b.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from labml_bn.cli.text import printable
from labml_bn.settings import as_typed

#: What makes a spreadsheet take a text for a formula.
_FORMULA = ("=", "+", "-", "@")

#: The most characters in a cell of Excel. Python's csv module reads four times as many.
_LONGEST = 32_767


def as_csv(table: Mapping[str, Sequence[Any]]) -> str:
    """Columns as CSV: a line with their names, and a line for each run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows([_cell(value) for value in row] for row in zip(*table.values(), strict=True))
    return text.getvalue()


def as_json(table: Mapping[str, Sequence[Any]]) -> str:
    """Columns as JSON: a list with an object for each run."""
    rows = [dict(zip(table, map(_plain, row), strict=True)) for row in zip(*table.values(), strict=True)]
    return json.dumps(rows, indent=2, allow_nan=False) + "\n"


def _cell(value: Any) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    if isinstance(plain, float):
        return repr(plain)  # all its digits
    if isinstance(plain, list) and all(isinstance(one, str) for one in plain):
        plain = ", ".join(plain)
    if not isinstance(plain, str):
        return as_typed(plain)
    text = printable(plain)[: _LONGEST - 1]
    return f"'{text}" if text.startswith(_FORMULA) else text


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value
