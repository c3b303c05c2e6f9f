"""What a user has written about a run on the dashboard: its name, comment and note, and which settings are marked.

It is kept in the run's folder, in a small JSON file: the dashboard's database is rebuilt from the runs' folders, and
what is only in the database would be lost with it.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from labml_bn.cli.errors import UserError
from labml_bn.cli.files import replacing
from labml_bn.cli.received import read_json

#: The file in the run's folder.
FILE = "notes.json"


def _encodable(text: str) -> str:
    """The text. Raises ValueError if UTF-8 does not have it: JSON can also express half a surrogate pair."""
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class Notes(BaseModel):
    """What can be written; the names are those of labml's app."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: Text = ""
    comment: Text = ""
    note: Text = ""
    favourite_configs: list[Text] = []
    selected_configs: list[Text] = []


def read(folder: Path) -> dict[str, Any]:
    """The entries that were written for the run in `folder`. Entries that are missing or damaged are left out."""
    try:
        content = read_json(folder / FILE)
    except UserError:
        return {}
    return {name: value for name, value in content.items() if is_valid(name, value)}


def write(folder: Path, changes: dict[str, Any]) -> None:
    """Write these entries for the run in `folder`, and keep its others. Raises OSError if that fails."""
    content = json.dumps(read(folder) | changes, indent=2, ensure_ascii=False) + "\n"
    with replacing(folder / FILE) as part:
        part.write_text(content, encoding="utf-8")


def is_valid(name: str, value: Any) -> bool:
    """Whether `value` can be the entry `name`: a text, or a list of texts."""
    try:
        Notes.model_validate({name: value})
    except ValidationError:
        return False
    return True
