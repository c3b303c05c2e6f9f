"""Whether a key exists, and whether its value is allowed: alone, and together with the other settings."""

import difflib
import reprlib
from collections.abc import Mapping
from typing import Any

from labml_bn.cli.errors import UsageError
from labml_bn.settings.keys import (
    FORMS,
    KEYS,
    MOST_CHANNELS,
    NOUNS,
    Range,
    default,
    parsed_layers,
    short,
    training_images,
)


def full_key(name: str) -> str:
    """The key that is written as `name`. Raises UsageError if there is none."""
    if name.lower() not in FORMS:
        raise _unknown(name)
    return FORMS[name.lower()]


def checked(name: str, value: Any) -> Any:
    """The value in the type of its key. Raises UsageError for an unknown key and a value that it does not allow."""
    if name not in KEYS:
        raise _unknown(str(name))
    key = KEYS[name]
    if any(
        isinstance(number, int) and abs(number) >= 1 << 63 for number in (value if isinstance(value, list) else [value])
    ):
        raise UsageError(f"{name} is too large")  # Python does not even print the largest ones
    if isinstance(key.takes, list) and isinstance(value, str):
        value = next((option for option in key.takes if option.lower() == value.lower()), value)
    if key.type is float:
        value = _as_float(value)
    elif key.type is list and isinstance(value, list):
        value = [_as_float(item) for item in value]
        if not all(isinstance(item, float) for item in value):
            raise UsageError(f"{name} must be a list of numbers, got {reprlib.repr(value)}")
    if not isinstance(value, key.type) or (key.type is int and isinstance(value, bool)):
        noun = NOUNS[key.type]
        raise UsageError(f"{name} must be {noun}, got {'nothing' if value is None else reprlib.repr(value)}")
    if isinstance(key.takes, Range):
        if not key.takes.holds(value):
            raise UsageError(f"{name} must be {key.takes.words}, got {reprlib.repr(value)}")
    elif key.takes is not None and value not in key.takes:
        raise UsageError(f"{name} must be one of {', '.join(key.takes)}, got {reprlib.repr(value)}")
    return value


def _unknown(name: str) -> UsageError:
    return UsageError(f"unknown key {name!r}: did you mean {_nearest(name)}? (--list shows all keys)")


def _nearest(name: str) -> str:
    """The key most similar to `name`; the last part of a dotted key, or its short name, counts as much as the whole."""

    def ratio(one: str, other: str) -> float:
        return difflib.SequenceMatcher(None, one, other).ratio()

    def likeness(known: str) -> float:
        written = name.lower().replace("-", "_")
        last = written.rpartition(".")[2]
        return ratio(written, known) + max(ratio(last, known.rpartition(".")[2]), ratio(last, short(known)))

    return max(KEYS, key=likeness)


def _as_float(value: Any) -> Any:
    """A number as a float. YAML reads 1e-3 as a string, which a user does not expect."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    return value


def check_together(settings: Mapping[str, Any]) -> None:
    """Raise UsageError for settings that are allowed one by one, but not together."""

    def value(key: str) -> Any:
        return settings.get(key, default(key))

    if value("precision") != "full" and value("dtype") != "float32":
        raise UsageError(f"precision={value('precision')} needs dtype=float32, got dtype={value('dtype')}")
    if value("norm") == "none" and value("population_samples") > 0:
        raise UsageError(f"population_samples={value('population_samples')} needs a normalization, got norm=none")
    if value("track") == "distributions":
        if value("compile"):
            raise UsageError("track=distributions needs compile=false: compiled code hides the layers' inputs")
        channels = sum(width for _, width, _, _ in parsed_layers(value("layers")))
        if channels > MOST_CHANNELS:
            raise UsageError(f"track=distributions is for at most {MOST_CHANNELS} channels, layers has {channels}")
    images, batch = training_images(value("train_samples"), value("held_out")), value("train_batch_size")
    if value("norm") != "none" and (batch == 1 or images % batch == 1):
        raise UsageError(
            f"train_batch_size={batch} makes a batch of one image (of {images}), "
            "and one value has no variance: choose another size, or norm=none"
        )
