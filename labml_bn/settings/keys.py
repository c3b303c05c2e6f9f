"""Every key of the settings: its type, default, range and meaning; and how settings are named and written."""

import re
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labml_bn.cli.errors import UsageError


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
_WORD = Range(
    "ConvNet, or at most 50 letters, digits, _ and -",
    lambda value: re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,49}", value) is not None,
)

#: What a value of each type is called.
NOUNS = {int: "an integer", float: "a number", bool: "true or false", str: "a string", list: "a list like [0.8,0.9]"}

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
    "network": Key(str, "ConvNet", "ConvNet, made of `layers`; or what a Python program calls its own", _WORD),
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
FORMS = {form: key for key in KEYS for form in (key, short(key), key.rpartition(".")[2])}

#: The folders that a run uses. What someone else has made does not choose them.
PATHS = ("data_path", "logs_path")

#: With `track=distributions` a network has at most so many channels: with more, a line of the log is too long to read.
MOST_CHANNELS = 10_000

#: Keys that do not change what a run computes. They are not in its name.
WITHOUT_EFFECT = frozenset({"track", "checkpoint_interval", "keep", *PATHS})

#: What may change when a run is resumed: what does not change its numbers, and how long it trains. The rest of
#: `optimizer.schedule` follows the new number of epochs.
CHANGEABLE = ("epochs", "device.use_cuda", "device.cuda_device", "track", "checkpoint_interval", "keep", "data_path")


def training_images(train_samples: int, held_out: int) -> int:
    """How many images a run is trained on: the first ones of the training images."""
    return min(train_samples, 60_000 - held_out)


def key_of(name: str) -> str | None:
    """The key that is written as `name`, in its full or its short form; None if there is none."""
    return FORMS.get(name.lower())


def default(key: str) -> Any:
    """The default of a key of `KEYS`."""
    return KEYS[key].default


def complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every key with its value: the one in `settings`, or the default."""
    return {key: settings.get(key, default(key)) for key in KEYS}


def different(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `settings` that are not the default."""
    return {key: value for key, value in settings.items() if value != default(key)}


def name_of(settings: Mapping[str, Any], also: Collection[str] = ()) -> str:
    """A short name for a run with these settings: its normalization, then what differs from the defaults.

    The keys in `also` are in it even with their defaults.
    """
    norm = settings.get("norm", default("norm"))
    words = [{"none": "no_norm", "torch": "torch_norm"}.get(norm, norm)]
    for key, value in settings.items():
        if key != "norm" and key not in WITHOUT_EFFECT and (key in also or value != default(key)):
            words.append(f"{short(key)}={as_typed(value)}")
    return " ".join(words)


#: A text that on the command line would be several values, a range, a list or in quotes.
_NOT_LITERAL = re.compile(r"\s*['\"\[].*|.*,.*|\s*[+-]?[0-9]+\.\.[+-]?[0-9]+\s*", re.DOTALL)


def as_typed(value: Any) -> str:
    """A value as it is written on the command line: `true`, `0.01`, `[0.8,0.9]`; a text in quotes if it needs them."""
    if isinstance(value, str) and _NOT_LITERAL.fullmatch(value):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)
