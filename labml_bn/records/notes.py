"""What the user has written about a run: its name, tags, comment and note, and which settings are marked.

`train --name NAME`, `runs --tag RUN TAG` and labml's dashboard write it. It is kept in the run's folder, in a small
JSON file, and shown by all that show runs.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labml_bn.cli.errors import UserError
from labml_bn.cli.files import replacing
from labml_bn.cli.received import read_json

#: The file in the run's folder.
FILE = "notes.json"

#: The entries that are texts, and those that are lists of texts. Except `tags`, the names are those of labml's app.
TEXTS = ("name", "comment", "note")
LISTS = ("tags", "favourite_configs", "selected_configs")


def read(folder: Path) -> dict[str, Any]:
    """The entries that were written for the run in `folder`. Entries that are missing or damaged are left out."""
    try:
        content = read_json(folder / FILE)
    except UserError:
        return {}
    return {name: value for name, value in content.items() if is_valid(name, value)}


def write(folder: Path, changes: Mapping[str, Any]) -> None:
    """Write these entries for the run in `folder`, and keep its others. Raises OSError if that fails."""
    content = json.dumps(read(folder) | dict(changes), indent=2, ensure_ascii=False) + "\n"
    with replacing(folder / FILE) as part:
        part.write_text(content, encoding="utf-8")


def is_valid(name: str, value: Any) -> bool:
    """Whether `value` can be the entry `name`: a text, or a list of texts."""
    if name in LISTS:
        return isinstance(value, list) and all(map(_is_text, value))
    return name in TEXTS and _is_text(value)


def _is_text(value: Any) -> bool:
    """Whether this is a text that UTF-8 has: JSON can also express half a surrogate pair."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False
