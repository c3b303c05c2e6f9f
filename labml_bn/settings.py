"""The settings of a training run: every key with its type, its range and its meaning, and how they are read.

They are written in a YAML file and on the command line, and read in the same way from both, before anything else
happens.
"""

import difflib
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from labml_bn import mnist
from labml_bn.configs import PARTS
from labml_bn.errors import UsageError
from labml_bn.models import NORMS


@dataclass(frozen=True)
class Range:
    """Which values of a type are taken: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Key:
    """A setting: its type, its meaning, and what values it takes besides being of that type."""

    type: type
    meaning: str
    takes: Sequence[str] | Range | None = None


def _at_least(low: int) -> Range:
    return Range(f"at least {low}", lambda value: value >= low)


def _between(low: int, high: int) -> Range:
    return Range(f"{low} to {high}", lambda value: low <= value <= high)


_POSITIVE = Range("greater than 0, at most 1e6", lambda value: 0 < value <= 1e6)
_FRACTION = Range("from 0 to below 1", lambda value: 0 <= value < 1)
_BETAS = Range("two numbers from 0 to below 1", lambda value: len(value) == 2 and all(0 <= beta < 1 for beta in value))
_NAME = Range("not empty", lambda value: value != "")

#: Every setting. The defaults stand in `configs.py`, where labml reads them.
KEYS: dict[str, Key] = {
    "epochs": Key(int, "passes over the training images", _at_least(1)),
    "dataset": Key(str, "the images", mnist.DATASETS),
    "norm": Key(str, "what stands between the layers: this project's layer, PyTorch's, or nothing", list(NORMS)),
    "train_batch_size": Key(int, "images in a training batch", _between(1, 60_000)),
    "valid_batch_size": Key(int, "images in a validation batch", _at_least(1)),
    "inner_iterations": Key(int, "validations an epoch, each over the next part of the test images", _at_least(1)),
    "train_samples": Key(int, "how many of the training images to use", _between(1, 60_000)),
    "valid_samples": Key(int, "how many of the test images to use", _between(1, 10_000)),
    "dtype": Key(str, "the precision of weights and activations", ["float32", "float64"]),
    "optimizer.optimizer": Key(str, "the optimizer", ["Adam", "SGD"]),
    "optimizer.learning_rate": Key(float, "the step size", _POSITIVE),
    "optimizer.betas": Key(list, "Adam's decay rates of the two moments", _BETAS),
    "optimizer.eps": Key(float, "Adam's term that keeps the division safe", _POSITIVE),
    "optimizer.momentum": Key(float, "SGD's momentum", _FRACTION),
    "seed.seed": Key(int, "the seed of the weights and of the order of the images", _between(0, 2**32 - 1)),
    "device.use_cuda": Key(bool, "whether to use a GPU where there is one"),
    "device.cuda_device": Key(int, "which GPU", _at_least(0)),
    "checkpoint_interval": Key(float, "epochs between two checkpoints, to the nearest validation", _POSITIVE),
    "keep": Key(int, "how many checkpoints to keep, besides the best", _at_least(1)),
    "data_path": Key(str, "the folder of the data sets", _NAME),
    "logs_path": Key(str, "the folder of the runs", _NAME),
}

#: What a run is called by is short, and says nothing of where its files are.
_SHORT = {"optimizer.learning_rate": "lr", "optimizer.eps": "adam_eps", "train_batch_size": "batch_size"}
_NOT_IN_NAMES = {"norm", "checkpoint_interval", "keep", "data_path", "logs_path"}

#: What may change when a run goes on: how long it goes on, and what does not touch its numbers.
CHANGEABLE = ("epochs", "device.use_cuda", "device.cuda_device", "checkpoint_interval", "keep", "data_path")


def default(key: str) -> Any:
    """The default of a key of `KEYS`."""
    part, _, name = key.rpartition(".")
    for cls in PARTS[part].__mro__:
        if name in vars(cls):
            return vars(cls)[name].value
    raise KeyError(key)


def read(arguments: Sequence[str], *, together: bool = True) -> dict[str, Any]:
    """The settings that `[CONFIG.yaml] [key=value ...]` make, later ones over earlier ones, all of them checked.

    With `together`, it is also checked that they fit each other, and the defaults of the others.

    Raises UsageError, in one line, for a file that cannot be read, a key that does not exist, and a value that the
    key does not take.
    """
    result: dict[str, Any] = {}
    for position, argument in enumerate(arguments):
        key, equals, value = argument.partition("=")
        if equals:
            result[key] = _checked(key, _from_word(key, value))
        elif position == 0:
            result |= _from_file(Path(argument))
        else:
            raise UsageError(f"{argument!r} is not a setting: write key=value, after at most one config file")
    if together:
        check_together(result)
    return result


def complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every key with its value: the one in `settings`, or the default."""
    return {key: settings.get(key, default(key)) for key in KEYS}


def from_record(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a run has kept them, checked as if they came from a config file. Raises UsageError."""
    return {key: _checked(key, value) for key, value in settings.items()}


def different(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of `settings` is not the default."""
    return {key: value for key, value in settings.items() if value != default(key)}


def name_of(settings: Mapping[str, Any]) -> str:
    """A short name for a run with these settings: its normalization, then what else is not the default."""
    norm = settings.get("norm", default("norm"))
    words = [{"none": "no_norm", "torch": "torch_norm"}.get(norm, norm)]
    for key, value in different(settings).items():
        if key not in _NOT_IN_NAMES:
            words.append(f"{_SHORT.get(key, key.rpartition('.')[2])}={_word(value)}")
    return " ".join(words)


def _word(value: Any) -> str:
    """A value as it is written on the command line, without blanks."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")


def _from_file(path: Path) -> dict[str, Any]:
    try:
        content = _yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "" if path.suffix in {".yaml", ".yml"} else " (settings are written key=value)"
        raise UsageError(f"cannot read the config file {path}: {error.strerror}{hint}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected lines of the form `key: value`")
    try:
        return {key: _checked(key, value) for key, value in _flat(content)}
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except RecursionError as error:
        raise UsageError(f"{path}: a value contains itself") from error


def _flat(content: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested keys as dotted ones."""
    pairs = []
    for key, value in content.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _from_word(key: str, word: str) -> Any:
    """A value from the command line: words as they are, numbers as Python reads them, the rest as in a file."""
    kind = KEYS[key].type if key in KEYS else str
    if kind is str or word == "":
        return word or None
    try:
        return int(word) if kind is int else float(word) if kind is float else _yaml(word)
    except (ValueError, yaml.YAMLError):
        return word


def _yaml(text: str) -> Any:
    """YAML as Python values. Raises yaml.YAMLError, or ValueError for a date that does not exist and the like."""
    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (KeyError, AttributeError) as error:  # a tag that does not fit its value, as in `!!bool x`
        raise ValueError("a value is not of the type that its tag says") from error


def _checked(name: str, value: Any) -> Any:
    """The value in the type of its key, if there is such a key and it takes the value."""
    if name not in KEYS:
        raise UsageError(f"unknown key {name!r}: did you mean {_nearest(name)}? (--list shows all keys)")
    key = KEYS[name]
    if key.type is float:
        value = _as_float(value)
    elif key.type is list and isinstance(value, list):
        value = [_as_float(item) for item in value]
        if not all(isinstance(item, float) for item in value):
            raise UsageError(f"{name} must be a list of numbers, got {reprlib.repr(value)}")
    if not isinstance(value, key.type) or (key.type is int and isinstance(value, bool)):
        noun = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", list: "a list"}
        raise UsageError(f"{name} must be {noun[key.type]}, got {'nothing' if value is None else reprlib.repr(value)}")
    if isinstance(key.takes, Range):
        if not key.takes.holds(value):
            raise UsageError(f"{name} must be {key.takes.words}, got {reprlib.repr(value)}")
    elif key.takes is not None and value not in key.takes:
        raise UsageError(f"{name} must be one of {', '.join(key.takes)}, got {reprlib.repr(value)}")
    return value


def _nearest(name: str) -> str:
    """The key most like `name`, by its last word as much as by the whole of it."""

    def likeness(known: str) -> float:
        pairs = [(name, known), (name.rpartition(".")[2], known.rpartition(".")[2])]
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return max(KEYS, key=likeness)


def _as_float(value: Any) -> Any:
    """A number as a float. YAML reads 1e-3 as a word, which a user does not."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    return value


def check_together(settings: Mapping[str, Any]) -> None:
    """Raise UsageError for settings that do not fit each other: what no key can tell by itself."""

    def value(key: str) -> Any:
        return settings.get(key, default(key))

    images, batch = value("train_samples"), value("train_batch_size")
    if value("norm") != "none" and (batch == 1 or images % batch == 1):
        raise UsageError(
            f"train_batch_size={batch} makes a batch of one image (of {images}), "
            "and one value has no variance: choose another size, or norm=none"
        )
