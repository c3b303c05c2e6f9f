"""The settings of a training run: each with its type, default, range and meaning, and how they are read.

They are written in a YAML file and on the command line, and read in the same way from both, before anything else
happens.
"""

import contextlib
import difflib
import re
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from labml_bn.cli.errors import UsageError, reason
from labml_bn.cli.received import LIMIT, parse_yaml


@dataclass(frozen=True)
class Range:
    """Which values of a type are allowed: in words, and as a test, which can also raise UsageError with the reason."""

    words: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Key:
    """A setting: its type, its default, its meaning, and which values of the type are allowed."""

    type: type
    default: Any
    meaning: str
    takes: Sequence[str] | Range | None = None


def _at_least(low: int) -> Range:
    return Range(f"at least {low}", lambda value: value >= low)


def _between(low: int, high: int) -> Range:
    return Range(f"{low} to {high}", lambda value: low <= value <= high)


#: One word of the setting `layers`: a convolution, a pooling or a linear layer.
_LAYER = re.compile(r"([1-9][0-9]{0,3})C([1-9][0-9]?)(?:S([1-9][0-9]?))?|P([1-9][0-9]?)|([1-9][0-9]{0,3})N")
_NOTATION = (
    "20C5 (convolution, 20 filters of 5x5; 20C5S2: with stride 2), P2 (max pooling 2x2) or 500N (linear, 500 units), "
    "joined by -"
)

#: So many layers can be in a value of the setting `layers`.
MOST_LAYERS = 100


def parsed_layers(notation: str) -> list[tuple[str, int, int, int]]:
    """The layers in a value of the setting `layers`, each as its kind, its width, its kernel size and its stride.

    20C5 is ("C", 20, 5, 1), 20C5S2 is ("C", 20, 5, 2), P2 is ("P", 0, 2, 2), 500N is ("N", 500, 0, 0). Raises
    UsageError, in one line, for anything else, for a kernel that is larger than its input, for a convolution or pooling
    after a linear layer, and for more than `MOST_LAYERS`.
    """
    layers: list[tuple[str, int, int, int]] = []
    side = 28
    words = notation.split("-")
    if len(words) > MOST_LAYERS:
        raise UsageError(f"layers: {len(words)} are too many: write at most {MOST_LAYERS}")
    for number, word in enumerate(words, 1):
        match = _LAYER.fullmatch(word)
        if match is None:
            raise UsageError(f"layers: {reprlib.repr(word)} is not a layer: write {_NOTATION}")
        filters, kernel, stride, pool, units = (int(group or 0) for group in match.groups())
        if units:
            layers.append(("N", units, 0, 0))
            continue
        if layers and layers[-1][0] == "N":
            raise UsageError(f"layers: {word} (layer {number}) cannot follow a linear layer")
        if max(kernel, pool) > side:
            raise UsageError(
                f"layers: {word} (layer {number}) is larger than its input: there the 28x28 image has shrunk to "
                f"{side}x{side}"
            )
        layers.append(("C", filters, kernel, stride or 1) if kernel else ("P", 0, pool, pool))
        _, _, size, stride = layers[-1]
        side = (side - size) // stride + 1
    return layers


_LAYERS = Range("20C5, P2, 500N, joined by -", lambda value: bool(parsed_layers(value)))


_POSITIVE = Range("greater than 0, at most 1e6", lambda value: 0 < value <= 1e6)
_FRACTION = Range("from 0 to below 1", lambda value: 0 <= value < 1)
_BETAS = Range("two numbers from 0 to below 1", lambda value: len(value) == 2 and all(0 <= beta < 1 for beta in value))
_NAME = Range("not empty", lambda value: value != "")

#: What a value of each type is called.
_NOUNS = {int: "an integer", float: "a number", bool: "true or false", str: "a string", list: "a list like [0.8,0.9]"}

#: Every setting.
KEYS: dict[str, Key] = {
    "epochs": Key(int, 10, "passes over the training images", _at_least(1)),
    "dataset": Key(str, "MNIST", "the data set", ["MNIST", "FashionMNIST"]),
    "norm": Key(
        str,
        "batch_norm",
        "the normalization: this layer, PyTorch's or none",
        ["batch_norm", "torch", "none"],
    ),
    "layers": Key(
        str,
        "20C5-P2-50C5-P2-500N",
        "the layers before the last: convolutions (20 filters of 5x5; stride 2: 20C5S2), max pooling, linear",
        _LAYERS,
    ),
    "train_batch_size": Key(int, 64, "images in a training batch", _between(1, 60_000)),
    "valid_batch_size": Key(int, 256, "images in a validation batch", _at_least(1)),
    "inner_iterations": Key(int, 10, "validations an epoch, each on the next part of the test images", _at_least(1)),
    "train_samples": Key(int, 60_000, "how many of the training images to use", _between(1, 60_000)),
    "valid_samples": Key(int, 10_000, "how many of the test images to use", _between(1, 10_000)),
    "held_out": Key(
        int,
        0,
        "how many training images, chosen by the seed, to validate on instead of the test images, and not to train on",
        _between(0, 59_999),
    ),
    "population_samples": Key(
        int,
        0,
        "after the last epoch, set the running statistics to those of so many undistorted training images; 0: do not",
        Range("0, or 2 to 60000", lambda value: value == 0 or 2 <= value <= 60_000),
    ),
    "channels_last": Key(bool, True, "whether images are in channels_last memory format, which is faster"),
    "dtype": Key(str, "float32", "the dtype of weights and activations", ["float32", "float64"]),
    "precision": Key(
        str,
        "full",
        "full, or bfloat16 autocast in the training steps; weights and evaluations stay in dtype",
        ["full", "bfloat16"],
    ),
    "compile": Key(bool, False, "whether torch.compile compiles the network for the training steps"),
    "track": Key(
        str,
        "metrics",
        "what each validation logs; distributions: also each layer's batch statistics, parameters and gradients",
        ["metrics", "distributions"],
    ),
    "optimizer.optimizer": Key(str, "Adam", "the optimizer", ["Adam", "SGD"]),
    "optimizer.learning_rate": Key(float, 0.001, "the learning rate", _POSITIVE),
    "optimizer.schedule": Key(
        str,
        "constant",
        "constant, or rising to the learning rate, then falling to almost 0 at the end of all epochs",
        ["constant", "one_cycle"],
    ),
    "optimizer.warmup": Key(float, 0.3, "one_cycle: the fraction of the steps in which it rises", _FRACTION),
    "optimizer.betas": Key(list, [0.9, 0.999], "Adam's decay rates of the two moments", _BETAS),
    "optimizer.eps": Key(float, 1e-8, "Adam's term in the denominator, for numerical stability", _POSITIVE),
    "optimizer.momentum": Key(float, 0.5, "SGD's momentum", _FRACTION),
    "optimizer.weight_decay": Key(
        float,
        0.0,
        "decay of the weights of convolutions and linear layers (Adam: decoupled, as AdamW; SGD: L2)",
        _between(0, 1_000_000),
    ),
    "augmentation.shift": Key(float, 0.0, "shift of the training images, up to this many pixels", _between(0, 28)),
    "augmentation.rotation": Key(float, 0.0, "their rotation, up to this many degrees", _between(0, 180)),
    "augmentation.scale": Key(float, 0.0, "their scaling: 0.1 is 0.9 to 1.1 times", _FRACTION),
    "augmentation.shear": Key(float, 0.0, "their shear, up to this many degrees", _between(0, 60)),
    "augmentation.elastic": Key(float, 0.0, "their smooth displacement, to about this many pixels", _between(0, 28)),
    "seed.seed": Key(int, 5, "the seed of the weights and of the order of the images", _between(0, 2**32 - 1)),
    "device.use_cuda": Key(bool, True, "whether to use a GPU if there is one"),
    "device.cuda_device": Key(int, 0, "which GPU", _at_least(0)),
    "checkpoint_interval": Key(float, 1.0, "epochs between checkpoints, to the nearest validation", _POSITIVE),
    "keep": Key(int, 2, "how many checkpoints to keep, besides the best", _at_least(1)),
    "data_path": Key(str, "data", "the folder of the data sets", _NAME),
    "logs_path": Key(str, "logs", "the folder of the runs", _NAME),
}

_SHORT = {"optimizer.learning_rate": "lr", "optimizer.eps": "adam_eps", "train_batch_size": "batch_size"}


def short(key: str) -> str:
    """The short form of a key, as in the names of runs: `lr`, or the last part of a dotted key."""
    return _SHORT.get(key, key.rpartition(".")[2])


#: Each key by every form in which it can be written: the key, its short form, and its last part.
_FORMS = {form: key for key in KEYS for form in (key, short(key), key.rpartition(".")[2])}

#: The folders that a run uses. What someone else has made does not choose them.
PATHS = ("data_path", "logs_path")

#: With `track=distributions` a network has at most so many channels: with more, a line of the log is too long to read.
MOST_CHANNELS = 10_000

#: Keys that are not in a run's name, besides those that have their default: they do not change its numbers.
_NOT_IN_NAMES = {"norm", "track", "checkpoint_interval", "keep", *PATHS}

#: What may change when a run is resumed: what does not change its numbers, and how long it trains. The rest of
#: `optimizer.schedule` follows the new number of epochs.
CHANGEABLE = ("epochs", "device.use_cuda", "device.cuda_device", "track", "checkpoint_interval", "keep", "data_path")


#: The config files of this project: beside the package in a repository, inside it if it was installed from a wheel.
_PACKAGE = Path(__file__).parent
CONFIGS = next((path for path in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if path.is_dir()), _PACKAGE)


def training_images(train_samples: int, held_out: int) -> int:
    """How many images a run is trained on: the first ones of the training images."""
    return min(train_samples, 60_000 - held_out)


def default(key: str) -> Any:
    """The default of a key of `KEYS`."""
    return KEYS[key].default


def read(arguments: Sequence[str], *, together: bool = True) -> dict[str, Any]:
    """The settings in `[CONFIG.yaml] [key=value ...]`, all of them checked; keys override the file, later keys earlier.

    CONFIG.yaml is a file, among them labml's record of a run's settings, or the name of one of this project's config
    files: `no_norm`. A key may be in its short form: `lr`. With `together`, settings and defaults are also checked
    against each other.

    Raises UsageError, in one line, for a file that cannot be read, an unknown key, and a value that the key does not
    allow.
    """
    result: dict[str, Any] = {}
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise UsageError(f"{files[1]!r} cannot follow {files[0]!r}: write one config file, and settings as key=value")
    for file in files:
        result |= _from_file(_config_file(file))
    for argument in arguments:
        name, equals, word = argument.partition("=")
        if equals:
            key = _full(name)
            result[key] = _checked(key, _from_word(key, word))
    if together:
        check_together(result)
    return result


def complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every key with its value: the one in `settings`, or the default."""
    return {key: settings.get(key, default(key)) for key in KEYS}


def from_record(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run has saved, checked as if they came from a config file. Raises UsageError."""
    return {key: _checked(key, value) for key, value in settings.items()}


def different(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `settings` that are not the default."""
    return {key: value for key, value in settings.items() if value != default(key)}


def from_labml(configs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in labml's record of a run: of each key the given value (`value`), or else the computed one.

    Raises UsageError for a given value that is not allowed. Keys that are missing are left out, as are others: labml
    also records the parts that are computed from the settings.
    """
    settings: dict[str, Any] = {}
    for key, entry in configs.items():
        if key in KEYS and isinstance(entry, dict):
            if entry.get("value") is not None:
                settings[key] = _checked(key, entry["value"])
            else:
                with contextlib.suppress(UsageError):  # it was not computed, or to an object: the optimizer
                    settings[key] = _checked(key, entry.get("computed"))
    return settings


def name_of(settings: Mapping[str, Any], also: Collection[str] = ()) -> str:
    """A short name for a run with these settings: its normalization, then what differs from the defaults.

    The keys in `also` are in it even with their defaults.
    """
    norm = settings.get("norm", default("norm"))
    words = [{"none": "no_norm", "torch": "torch_norm"}.get(norm, norm)]
    for key, value in settings.items():
        if key not in _NOT_IN_NAMES and (key in also or value != default(key)):
            words.append(f"{short(key)}={as_typed(value)}")
    return " ".join(words)


def as_typed(value: Any) -> str:
    """A value as it is written on the command line: `true`, `0.01`, `[0.8,0.9]`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def _config_file(name: str) -> Path:
    """The file that a user means: a path, or else one of this project's config files by its name."""
    packaged = CONFIGS / f"{_config_name(name)}.yaml"
    is_name = Path(name).name == name and Path(name).suffix == ""
    return packaged if is_name and not Path(name).exists() and packaged.is_file() else Path(name)


def _config_name(name: str) -> str:
    """The name of a config file of this project in its usual spelling: `no_norm` for `configs/No-Norm.yml`."""
    return Path(name).stem.lower().replace("-", "_")


def _hint(path: Path) -> str:
    """What a user may have meant by the name of a file that cannot be read."""
    names = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
    similar = difflib.get_close_matches(_config_name(path.name), names, 1, 0.75)
    if similar:
        return f" (did you mean {similar[0]}, a config of this project?)"
    if path.suffix in {".yaml", ".yml"}:
        return ""
    return f" (settings are written key=value; configs: {', '.join(names)})"


def _from_file(path: Path) -> dict[str, Any]:
    try:
        if path.is_fifo() and path.parts[:2] not in {("/", "dev"), ("/", "proc")}:  # as those of `<(command)` are
            raise UsageError(f"{path} is a named pipe, not a config file")
        with path.open("rb") as file:
            written = file.read(LIMIT + 1)
        if len(written) > LIMIT:
            raise UsageError(f"{path} is larger than {LIMIT >> 20} MiB: it is not a config file")
        content = parse_yaml(written.decode())
    except OSError as error:
        raise UsageError(f"cannot read the config file {path}: {reason(error)}{_hint(path)}") from error
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
        if _is_labmls(content):
            # The record may be someone else's: it does not choose where anything is stored.
            return {key: value for key, value in from_labml(content).items() if key not in PATHS}
        return {_full(key): _checked(_full(key), value) for key, value in _flat(content)}
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _is_labmls(content: Mapping[Any, Any]) -> bool:
    """Whether this is labml's record of a run's settings. There each key has several entries."""
    return all(isinstance(entry, dict) and {"value", "computed"} <= entry.keys() for entry in content.values())


def _full(name: str) -> str:
    """The key that is written as `name`. Raises UsageError if there is none."""
    if name.lower() not in _FORMS:
        raise _unknown(name)
    return _FORMS[name.lower()]


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
    """A value from the command line: strings as they are, numbers as Python reads them, the rest as YAML."""
    kind = KEYS[key].type
    if kind is str or word == "":
        return word or None
    try:
        return int(word) if kind is int else float(word) if kind is float else parse_yaml(word)
    except (ValueError, yaml.YAMLError):
        return word


def _checked(name: str, value: Any) -> Any:
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
        noun = _NOUNS[key.type]
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
