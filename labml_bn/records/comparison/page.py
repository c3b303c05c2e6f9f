"""The comparison page: one HTML file with its style, its scripts and its data, which loads nothing else.

`page.html` is its frame. The scripts are plain JavaScript, one subject a file, and are joined here in the order in
which they use each other. `vendor/` has uPlot, which draws the charts. The page's Content-Security-Policy allows these
scripts and this style by their hashes, and nothing else: no request leaves the page, and no name of a run acts as code.
"""

import base64
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labml_bn.cli.errors import os_errors_as
from labml_bn.cli.files import replacing
from labml_bn.records.comparison.page_data import make_data
from labml_bn.records.record import Record, Series

_FOLDER = Path(__file__).parent

#: The page's own scripts: numbers first, then what is drawn, then the page as a whole.
SCRIPTS = ("data", "statistics", "groups", "filter", "elements", "charts", "distributions", "table", "page", "live")


def save(runs: Sequence[Record], metrics: Sequence[Mapping[str, Series]], path: Path) -> None:
    """Write the page of these runs and their metrics, atomically. Raises UserError if it cannot be written."""
    written = html(as_json(make_data(runs, metrics)))
    with os_errors_as(f"cannot write {path}"), replacing(path) as part:
        part.write_text(written, encoding="utf-8")


def as_json(data: Mapping[str, Any]) -> str:
    """The data as JSON, without a character that could end the element that it is in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def html(data: str, *, live: bool = False) -> str:
    """The page with this data, as JSON. A live one asks its server for newer data."""
    parts = {**_parts(), "policy": policy(live=live), "data": data, "live": str(live).lower()}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("page.html"))


def policy(*, live: bool = False) -> str:
    """The Content-Security-Policy of the page. A live one may send requests to its server."""
    parts = _parts()
    scripts = " ".join(_source(parts[name]) for name in ("library", "script"))
    server = "; connect-src 'self'" if live else ""
    return f"default-src 'none'; script-src {scripts}; style-src {_source(parts['style'])}; img-src data:{server}"


@functools.cache
def _parts() -> dict[str, str]:
    """The scripts and the style, as they are in the page."""
    script = "\n".join(_read(f"scripts/{name}.js") for name in SCRIPTS)
    return {
        "library": _read("vendor/uPlot.iife.min.js"),
        "script": f'(() => {{\n"use strict";\n{script}}})();\n',
        "style": _read("vendor/uPlot.min.css") + _read("page.css"),
    }


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _source(content: str) -> str:
    """How a policy names an element with this content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
