"""Texts from the folders of runs, as the page shows them."""

import math
import re
from typing import Any

#: Control characters, halves of surrogate pairs, and what changes the direction of the text that follows.
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(value: Any) -> Any:
    """A value from a YAML or JSON file as JSON and a page can have it: dates, for example, become strings.

    In texts, characters that no encoding has or that disguise a text are written `\\u202e`.
    """
    if isinstance(value, dict):
        return {harmless(str(key)): harmless(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [harmless(one) for one in value]
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _HARMFUL.sub(lambda found: ascii(found[0])[1:-1], str(value))
