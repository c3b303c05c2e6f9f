"""The settings of a training run: `keys.py` has all of them. Read it first.

They are written in a YAML file and on the command line, and read in the same way from both, before anything else
happens: `reading.py` reads one value and one file, `checking.py` says which values are allowed, and `sweeping.py` makes
one run or several of them.
"""

from labml_bn.settings.checking import check_together
from labml_bn.settings.keys import (
    CHANGEABLE,
    KEYS,
    PATHS,
    WITHOUT_EFFECT,
    Range,
    as_typed,
    complete,
    default,
    different,
    key_of,
    name_of,
    parsed_layers,
    short,
    training_images,
)
from labml_bn.settings.reading import from_labml, from_record
from labml_bn.settings.sweeping import Grid, grid_of, read, read_grid

__all__ = [
    "CHANGEABLE",
    "KEYS",
    "PATHS",
    "WITHOUT_EFFECT",
    "Grid",
    "Range",
    "as_typed",
    "check_together",
    "complete",
    "default",
    "different",
    "from_labml",
    "from_record",
    "grid_of",
    "key_of",
    "name_of",
    "parsed_layers",
    "read",
    "read_grid",
    "short",
    "training_images",
]
