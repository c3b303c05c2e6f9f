"""Several runs in one command: which values of a key a user means, and the grid of all their combinations.

Values are separated by commas, and `A..B` are the integers from A to B:

    norm=batch_norm,none optimizer.learning_rate=0.001,0.01 seed.seed=1..5

A value in quotes is taken literally; within it, the quote is written twice. One that begins with a bracket ends after
the closing one: `optimizer.betas=[0.9,0.999]` is one value. In a config file, `sweep:` has the values of each key, as a
list or in this notation.
"""

import itertools
import math
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labml_bn.cli.errors import UsageError
from labml_bn.settings.checking import check_together, checked, full_key
from labml_bn.settings.keys import PATHS, as_typed, short
from labml_bn.settings.reading import config_file, flat, from_file, from_word

#: The entry of a config file with the values of the keys that vary.
SWEEP = "sweep"

#: So many runs can be in a sweep.
MOST_RUNS = 100_000

_BLANKS = re.compile(r"\s*")
_QUOTED = re.compile(r"""\s*(?:'((?:[^']|'')*)'|"((?:[^"]|"")*)")\s*(?=,|$)""")
_RANGE = re.compile(r"\s*([+-]?[0-9]{1,18})\.\.([+-]?[0-9]{1,18})\s*")


@dataclass(frozen=True)
class Grid:
    """One run or several: `settings` that all of them have, and for each key in `swept` the values that it takes."""

    settings: dict[str, Any]
    swept: dict[str, list[Any]]

    def __len__(self) -> int:
        return math.prod(len(values) for values in self.swept.values())

    def combinations(self) -> Iterator[dict[str, Any]]:
        """The settings of each run; the last key varies fastest."""
        for values in itertools.product(*self.swept.values()):
            yield {**self.settings, **dict(zip(self.swept, values, strict=True))}

    def one(self) -> dict[str, Any]:
        """The settings, if these are those of one run. Raises UsageError if they are those of several."""
        for key, values in self.swept.items():
            raise UsageError(f"{key} has several values ({len(values)}), and this is one run: write one value")
        return self.settings

    def on(self, settings: Mapping[str, Any]) -> "Grid":
        """The same values of the keys that vary, on other settings, which may have values of them too."""
        return Grid({key: value for key, value in settings.items() if key not in self.swept}, self.swept)

    def check(self) -> None:
        """Raise UsageError for too many runs, or for settings that are not allowed together, naming the combination."""
        if len(self) > MOST_RUNS:
            raise _too_many(len(self))
        for settings in self.combinations():
            try:
                check_together(settings)
            except UsageError as error:
                if not self.swept:
                    raise
                raise UsageError(f"{self.label(settings)}: {error}") from error

    def label(self, settings: Mapping[str, Any]) -> str:
        """What distinguishes a run from the others: the keys that vary, in their short forms, as they are typed."""
        return " ".join(f"{short(key)}={as_typed(settings[key])}" for key in self._varying())

    def name(self) -> str:
        """A name for the sweep: the short forms of the keys that vary."""
        return "-".join(short(key) for key in self._varying())

    def _varying(self) -> list[str]:
        return [key for key, values in self.swept.items() if len(values) > 1] or list(self.swept)


def read(arguments: Sequence[str], *, together: bool = True) -> dict[str, Any]:
    """The settings of one run, as `read_grid` reads them. Raises UsageError if they are those of several.

    With `together`, settings and defaults are also checked against each other.
    """
    grid = read_grid(arguments)
    settings = grid.one()
    if together:
        grid.check()
    return settings


def read_grid(arguments: Sequence[str]) -> Grid:
    """The runs in `[CONFIG.yaml] [key=value ...]`, all values checked; keys override the file, later keys earlier.

    CONFIG.yaml is a file, among them labml's record of a run's settings, or the name of one of this project's config
    files: `no_norm`. A key may be in its short form: `lr`.

    Raises UsageError, in one line, for a file that cannot be read, an unknown key, and a value that the key does not
    allow. Whether the settings of each run are allowed together is not checked here, but by `Grid.check`.
    """
    settings: dict[str, Any] = {}
    swept: dict[str, list[Any]] = {}
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise UsageError(f"{files[1]!r} cannot follow {files[0]!r}: write one config file, and settings as key=value")
    for file in files:
        path = config_file(file)
        settings, sweep = from_file(path, SWEEP)
        try:
            swept = _from_entry(sweep, settings)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if equals:
            key = full_key(name)
            values = _values(key, text)
            settings.pop(key, None)
            swept.pop(key, None)
            if len(values) > 1:
                swept[key] = _several(key, values)
            else:
                settings[key] = values[0]
    return Grid(settings, swept)


def grid_of(settings: Mapping[str, Any], swept: Mapping[str, Any]) -> Grid:
    """A grid that was saved, checked as if it came from a config file. Raises UsageError."""
    grid = Grid({key: checked(key, value) for key, value in settings.items()}, _from_entry(swept, settings))
    grid.check()
    return grid


def _from_entry(sweep: Any, settings: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of each key in the entry `sweep` of a config file that has these settings besides."""
    if not isinstance(sweep, Mapping | None):
        raise UsageError(f"{SWEEP}: expected lines of the form `key: [value, value]`")
    swept = {}
    for name, given in flat(sweep or {}):
        key = full_key(name)
        if key in settings or key in swept:
            raise UsageError(f"{key} is given twice: write it once, as a setting or in {SWEEP}")
        if isinstance(given, str):
            values = _values(key, given)
        else:
            values = [checked(key, value) for value in (given if isinstance(given, list) else [given])]
        swept[key] = _several(key, values)
    return swept


def _several(key: str, values: list[Any]) -> list[Any]:
    """The values of a key that varies. Raises UsageError if there are none, or twice the same, or it cannot vary."""
    if key in PATHS:
        raise UsageError(
            f"{key} cannot vary within a sweep: its runs share their folders (quotes make a text one value)"
        )
    if not values:
        raise UsageError(f"{key} has no values in {SWEEP}")
    seen = set()
    for value in values:
        if repr(value) in seen:
            raise UsageError(f"{key}={as_typed(value)} is given twice")
        seen.add(repr(value))
    return values


def _values(key: str, text: str) -> list[Any]:
    """The values in `text`. Raises UsageError, also for one that the key does not allow."""
    return [checked(key, from_word(key, word)) for word in _words(key, text)]


def _words(key: str, text: str) -> Iterator[str]:
    """The values in `text`, each as the word that it would be alone."""
    items = list(_items(key, text))
    for item, is_literal in items:
        match = None if is_literal else _RANGE.fullmatch(item)
        if match:
            first, last = int(match[1]), int(match[2])
            if last < first:
                raise UsageError(f"{key}={item.strip()} is empty: write the smaller number first")
            if last - first >= MOST_RUNS:
                raise _too_many(last - first + 1)
            yield from map(str, range(first, last + 1))
        else:
            # A single value is taken as it is.
            yield item if is_literal or len(items) == 1 else item.strip()


def _items(key: str, text: str) -> Iterator[tuple[str, bool]]:
    """What stands between the commas of `text`, and whether it is literal, because it stood in quotes."""
    place = 0
    while True:
        start = _BLANKS.match(text, place).end()  # type: ignore[union-attr]
        if text[start : start + 1] in {"'", '"'}:
            quoted = _QUOTED.match(text, place)
            if quoted is None:
                raise UsageError(
                    f"{key}: {reprlib.repr(text[start:])} has no closing quote at its end, or before a comma"
                )
            yield quoted[1].replace("''", "'") if quoted[1] is not None else quoted[2].replace('""', '"'), True
            place = quoted.end()
        else:
            comma = text.find(",", _closing(key, text, start))
            end = comma if comma >= 0 else len(text)
            yield text[place:end], False
            place = end
        if place == len(text):
            return
        place += 1


def _closing(key: str, text: str, start: int) -> int:
    """Where the brackets that begin at `start` are closed, or `start` if there are none."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"[": 1, "]": -1}.get(text[place], 0)
        if depth == 0:
            return place
    if depth > 0:
        raise UsageError(f"{key}: {reprlib.repr(text[start:])} has no closing bracket (quotes make it literal)")
    return start


def _too_many(runs: int) -> UsageError:
    return UsageError(f"these are {runs:,} runs: a sweep can have at most {MOST_RUNS:,}")
