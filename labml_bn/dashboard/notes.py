"""What a user has written about a run on the dashboard: its name, comment and note, and which settings are marked.

It is kept in the run's folder, in a small JSON file: the dashboard's database is rebuilt from the runs' folders, and
what is only in the database would be lost with it.
"""

import json
from pathlib import Path
from typing import Any

from labml_bn.cli.files import replacing

#: The file in the run's folder.
FILE = "notes.json"

#: What can be written, with its type; the names are those of labml's app.
TEXTS = ("name", "comment", "note")
LISTS = ("favourite_configs", "selected_configs")


def read(folder: Path) -> dict[str, Any]:
    """The entries that were written for the run in `folder`. Entries that are missing or damaged are left out."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if is_valid(name, value)}


def write(folder: Path, changes: dict[str, Any]) -> None:
    """Write these entries for the run in `folder`, and keep its others. Raises OSError if that fails."""
    content = json.dumps(read(folder) | changes, indent=2, ensure_ascii=False) + "\n"
    with replacing(folder / FILE) as part:
        part.write_text(content, encoding="utf-8")


def is_valid(name: str, value: Any) -> bool:
    """Whether `value` can be the entry `name`: a text, or a list of texts."""
    texts = value if name in LISTS and isinstance(value, list) else [value] if name in TEXTS else [None]
    return all(isinstance(text, str) and _is_unicode(text) for text in texts)


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 has the text: JSON can also express half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
