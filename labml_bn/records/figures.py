"""Saving figures, and a page of a table with a figure. `comparison/` and `trained/mistakes.py` draw them."""

import contextlib
import html
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
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


def save_page(rows: Sequence[Sequence[str]], figure: Figure, path: Path) -> None:
    """Write a self-contained HTML page: a table, whose first row is the heading, and a figure below it.

    Raises UserError if it cannot be written.
    """
    drawn = io.StringIO()
    with _without_warnings():
        figure.savefig(drawn, format="svg")
    svg = drawn.getvalue()
    heading, *body = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    lines = "\n".join(f"<tr>{row}</tr>" for row in body)
    page = _PAGE.format(heading=heading.replace("td>", "th>"), rows=lines, svg=svg[svg.index("<svg") :])
    with os_errors_as(f"cannot write {path}"), replacing(path) as part:
        part.write_text(page, encoding="utf-8")


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>labml_bn: runs compared</title>
<style>
body {{ font: 15px system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .3em .8em; text-align: left; border-bottom: 1px solid #ccc; white-space: nowrap; }}
svg {{ width: 100%; height: auto; }}
</style>
</head>
<body>
<h1>Runs compared</h1>
<div class="wide"><table>
<thead><tr>{heading}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
{svg}
</body>
</html>
"""
