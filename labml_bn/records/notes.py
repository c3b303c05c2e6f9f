"""What the user has written about a run: its name, tags, comment and note, and which settings are marked.

`train --name NAME`, `runs --tag RUN TAG` and labml's dashboard write it. It is kept in the run's folder, in a small
JSON file, and shown by all that show runs.
"""

import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labml_bn.cli.errors import UsageError, UserError
from labml_bn.cli.files import replacing
from labml_bn.cli.received import read_json

#: The file in the run's folder.
FILE = "notes.json"

#: The entries that are texts, and those that are lists of texts. Except `tags`, the names are those of labml's app.
TEXTS = ("name", "comment", "note")
LISTS = ("tags", "favourite_configs", "selected_configs")

#: So many tags can a run have, and so many characters a tag and a name.
MOST_TAGS = 50
LONGEST_TAG = 100
LONGEST_NAME = 200


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


def check(entries: Mapping[str, Any]) -> None:
    """Raise UsageError if a user cannot write these entries."""
    tagged([], entries.get("tags", []))
    check_name(entries.get("name", ""))
    for name, value in entries.items():
        if not is_valid(name, value):
            raise UsageError(f"{reprlib.repr(value)} cannot be a {name}: it is not valid UTF-8")


def changed(entries: Mapping[str, Any], what: str, text: str) -> dict[str, Any]:
    """The new entry if `what` is done to the entries of a run: `name`, `note`, `tag` or `untag`.

    Raises UsageError for a text that the entry cannot have.
    """
    tags = entries.get("tags", [])
    if what == "tag":
        return {"tags": tagged(tags, [text])}
    if what == "untag":
        return {"tags": [tag for tag in tags if tag != text]}
    check({what: text})
    return {what: text}


def is_tag(text: str) -> bool:
    """Whether this can be a tag: printable characters, not only spaces, without a comma, which separates tags."""
    return text.isprintable() and text == text.strip() != "" and "," not in text and len(text) <= LONGEST_TAG


def tagged(tags: Sequence[str], more: Sequence[str]) -> list[str]:
    """The tags and some more, each once. Raises UsageError for what cannot be a tag, and if there are too many."""
    for tag in more:
        if not is_tag(tag):
            raise UsageError(f"{reprlib.repr(tag)} cannot be a tag: write 1 to {LONGEST_TAG} characters, no comma")
    result = list(dict.fromkeys([*tags, *more]))
    if len(result) > MOST_TAGS:
        raise UsageError(f"{len(result)} tags are too many: a run has at most {MOST_TAGS}")
    return result


def check_name(name: str) -> None:
    """Raise UsageError unless this can be the name of a run; the empty one is that of none."""
    if not name.isprintable() or len(name) > LONGEST_NAME:
        raise UsageError(f"{reprlib.repr(name)} cannot be a name: write at most {LONGEST_NAME} printable characters")


def _is_text(value: Any) -> bool:
    """Whether this is a text that UTF-8 has: JSON can also express half a surrogate pair."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False
