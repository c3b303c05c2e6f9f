"""The settings of a training run: `keys.py` has all of them. Read it first.

They are written in a YAML file and on the command line. `reading.py` reads them in the same way from both, before
anything else happens, and `checking.py` says which values are allowed.
"""

from labml_bn.settings.checking import check_together
from labml_bn.settings.keys import (
    CHANGEABLE,
    KEYS,
    PATHS,
    Range,
    as_typed,
    complete,
    default,
    different,
    name_of,
    parsed_layers,
    short,
    training_images,
)
from labml_bn.settings.reading import from_labml, from_record, read

__all__ = [
    "CHANGEABLE",
    "KEYS",
    "PATHS",
    "Range",
    "as_typed",
    "check_together",
    "complete",
    "default",
    "different",
    "from_labml",
    "from_record",
    "name_of",
    "parsed_layers",
    "read",
    "short",
    "training_images",
]
