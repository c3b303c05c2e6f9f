"""Every key with its default, the notation of `layers`, and how settings are named and written."""

import pytest

from labml_bn.data.download import CHECKSUMS
from labml_bn.data.mnist import CLASSES, PIXELS
from labml_bn.models import LAYERS, NORMS
from labml_bn.settings import KEYS, as_typed, complete, default, different, name_of, parsed_layers, read, short


def test_defaults_are_the_annotated_experiments() -> None:
    assert {key: default(key) for key in KEYS} == {
        "epochs": 10,
        "dataset": "MNIST",
        "norm": "batch_norm",
        "network": "ConvNet",
        "layers": "20C5-P2-50C5-P2-500N",
        "train_batch_size": 64,
        "valid_batch_size": 256,
        "inner_iterations": 10,
        "train_samples": 60_000,
        "valid_samples": 10_000,
        "held_out": 0,
        "population_samples": 0,
        "channels_last": True,
        "dtype": "float32",
        "precision": "full",
        "compile": False,
        "track": "metrics",
        "checkpoint_interval": 1.0,
        "keep": 2,
        "optimizer.optimizer": "Adam",
        "optimizer.learning_rate": 0.001,
        "optimizer.schedule": "constant",
        "optimizer.warmup": 0.3,
        "optimizer.betas": [0.9, 0.999],
        "optimizer.eps": 1e-8,
        "optimizer.momentum": 0.5,
        "optimizer.weight_decay": 0.0,
        **{f"augmentation.{name}": 0.0 for name in ("shift", "rotation", "scale", "shear", "elastic")},
        "seed.seed": 5,
        "device.use_cuda": True,
        "device.cuda_device": 0,
        "data_path": "data",
        "logs_path": "logs",
    }


def test_the_options_are_those_of_the_other_rooms() -> None:
    """The settings import neither the networks nor the data sets, so they name their options themselves."""
    assert KEYS["norm"].takes == list(NORMS)
    assert tuple(parsed_layers(default("layers"))) == LAYERS
    assert KEYS["dataset"].takes == list(CHECKSUMS) == list(CLASSES) == list(PIXELS)


def test_different() -> None:
    given = read(["epochs=10", "norm=none", "optimizer.learning_rate=1e-2"])
    assert different(given) == {"norm": "none", "optimizer.learning_rate": 0.01}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "batch_norm"),
        (["norm=batch_norm", "data_path=elsewhere", "logs_path=there"], "batch_norm"),
        (["norm=none", "optimizer.learning_rate=1e-2"], "no_norm lr=0.01"),
        (
            ["norm=torch", "device.use_cuda=false", "optimizer.betas=[0.8, 0.9]"],
            "torch_norm use_cuda=false betas=[0.8,0.9]",
        ),
        (
            ["layers=20C5-P2-100N", "optimizer.schedule=one_cycle", "augmentation.shift=1.5", "compile=true"],
            "batch_norm layers=20C5-P2-100N schedule=one_cycle shift=1.5 compile=true",
        ),
        (["seed.seed=7", "train_batch_size=32"], "batch_norm seed=7 batch_size=32"),
    ],
)
def test_name(arguments: list[str], name: str) -> None:
    assert name_of(read(arguments)) == name


@pytest.mark.parametrize(
    ("notation", "layers"),
    [
        ("20C5-P2", [("C", 20, 5, 1), ("P", 0, 2, 2)]),
        ("P2", [("P", 0, 2, 2)]),
        ("500N-10N", [("N", 500, 0, 0), ("N", 10, 0, 0)]),
        ("8C28", [("C", 8, 28, 1)]),
        ("16C5S2-4C12", [("C", 16, 5, 2), ("C", 4, 12, 1)]),
        ("P3-9999C9", [("P", 0, 3, 3), ("C", 9999, 9, 1)]),
    ],
)
def test_layers(notation: str, layers: list[tuple[str, int, int, int]]) -> None:
    assert parsed_layers(notation) == layers
    assert read([f"layers={notation}"]) == {"layers": notation}


SHOWN = [
    [],
    ["lr=0.01", "batch_size=32", "adam_eps=1e-7", "seed=7", "use_cuda=false", "betas=[0.8,0.95]", "optimizer=SGD"],
    ["norm=torch", "layers=20C5-P2-100N", "schedule=one_cycle", "shift=1.5", "compile=true"],
    ["learning_rate=0.00123456789", "momentum=0.1", "eps=1e-10"],
]


@pytest.mark.parametrize("arguments", SHOWN)
def test_what_is_shown_can_be_typed(arguments: list[str]) -> None:
    """The words of a run's name, and of a list of all settings, are settings that give the same run."""
    given = read(arguments)
    _, *words = name_of(given).split()
    assert {"norm": "batch_norm", **given} == {"norm": given.get("norm", "batch_norm"), **read(words)}
    for key, value in complete(given).items():
        assert read([f"{key}={as_typed(value)}"], together=False) == {key: value}
        assert read([f"{short(key)}={as_typed(value)}"], together=False) == {key: value}


def test_each_form_of_a_key_means_one() -> None:
    forms = [{key, short(key), key.rpartition(".")[2]} for key in KEYS]
    assert len(set().union(*forms)) == sum(map(len, forms))


def test_a_default_in_a_name() -> None:
    assert name_of(complete({}), also=["seed.seed"]) == "batch_norm seed=5"
