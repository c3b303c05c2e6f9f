"""Which values are allowed, alone and together, and how others are refused."""

from pathlib import Path

import pytest

from labml_bn.cli.errors import UsageError
from labml_bn.settings import KEYS, default, read
from labml_bn.settings.checking import checked


def test_every_default_is_allowed() -> None:
    for key in KEYS:
        assert checked(key, default(key)) == default(key)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("epoch=1", "unknown key 'epoch': did you mean epochs?"),
        ("learning_rat=1", "unknown key 'learning_rat': did you mean optimizer.learning_rate?"),
        ("optimizer.lr=1", "unknown key 'optimizer.lr': did you mean optimizer.learning_rate?"),
        ("Seeds=1", "unknown key 'Seeds': did you mean seed.seed?"),
        ("train-batch-size=1", "unknown key 'train-batch-size': did you mean train_batch_size?"),
        ("lr=abc", "optimizer.learning_rate must be a number, got 'abc'"),
        ("=1", "unknown key ''"),
        ("epochs=-1", "epochs must be at least 1, got -1"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("epochs=1.5", "epochs must be an integer, got '1.5'"),
        ("epochs=true", "epochs must be an integer, got 'true'"),
        ("epochs=", "epochs must be an integer, got nothing"),
        ("epochs=many", "epochs must be an integer, got 'many'"),
        ("epochs=[1]", "epochs must be an integer, got '[1]'"),
        ("epochs=[1", "epochs: '[1' has no closing bracket"),
        ("optimizer.learning_rate=abc", "optimizer.learning_rate must be a number, got 'abc'"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate must be greater than 0, at most 1e6, got 0.0"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate must be greater than 0, at most 1e6, got nan"),
        ("optimizer.learning_rate=inf", "optimizer.learning_rate must be greater than 0, at most 1e6, got inf"),
        ("optimizer.momentum=1", "optimizer.momentum must be from 0 to below 1, got 1.0"),
        ("optimizer.betas=0.9", "optimizer.betas must be a list like [0.8,0.9], got 0.9"),
        ("optimizer.betas=[0.9]", "optimizer.betas must be two numbers from 0 to below 1, got [0.9]"),
        ("optimizer.betas=[a, b]", "optimizer.betas must be a list of numbers, got ['a', 'b']"),
        ("optimizer.optimizer=Noam", "optimizer.optimizer must be one of Adam, SGD, got 'Noam'"),
        ("norm=layer", "norm must be one of batch_norm, torch, none, got 'layer'"),
        ("norm=3", "norm must be one of batch_norm, torch, none, got '3'"),
        ("epochs=2001-13-45", "epochs must be an integer, got '2001-13-45'"),
        ("epochs=1:30", "epochs must be an integer, got '1:30'"),
        ("epochs=" + "9" * 5000, "epochs must be an integer, got "),
        (
            "optimizer.learning_rate=" + "9" * 400,
            "optimizer.learning_rate must be greater than 0, at most 1e6, got inf",
        ),
        ("optimizer.learning_rate=1:30", "optimizer.learning_rate must be a number, got '1:30'"),
        ("optimizer.betas=" + "[" * 5000, "optimizer.betas: '[[[[["),
        ("optimizer.betas=" + "[" * 5000 + "]" * 5000, "optimizer.betas must be a list like [0.8,0.9], got "),
        ("optimizer.betas=2001-13-45", "optimizer.betas must be a list like [0.8,0.9], got '2001-13-45'"),
        ("device.use_cuda=" + "[" * 5000 + "]" * 5000, "device.use_cuda must be true or false, got "),
        ("data_path=", "data_path must be a string, got nothing"),
        ("dataset=CIFAR10", "dataset must be one of MNIST, FashionMNIST, got 'CIFAR10'"),
        ("train_samples=60001", "train_samples must be 1 to 60000, got 60001"),
        ("device.use_cuda=perhaps", "device.use_cuda must be true or false, got 'perhaps'"),
        ("train_batch_size=1", "train_batch_size=1 makes a batch of one image (of 60000)"),
        ("train_samples=65", "train_batch_size=64 makes a batch of one image (of 65)"),
        ("layers=", "layers must be a string, got nothing"),
        (
            "layers=20C5-X",
            "layers: 'X' is not a layer: write 20C5 (convolution, 20 filters of 5x5; 20C5S2: with stride 2)",
        ),
        ("layers=-", "layers: '' is not a layer"),
        ("layers=20c5", "layers: '20c5' is not a layer"),
        ("layers=20C5 - P2", "layers: '20C5 ' is not a layer"),
        ("layers=0C5", "layers: '0C5' is not a layer"),
        ("layers=20C0", "layers: '20C0' is not a layer"),
        ("layers=P0", "layers: 'P0' is not a layer"),
        ("layers=0N", "layers: '0N' is not a layer"),
        ("layers=99999N", "layers: '99999N' is not a layer"),
        ("layers=" + "9" * 5000, "layers: '999"),
        ("layers=20C29", "layers: 20C29 (layer 1) is larger than its input: there the 28x28 image has shrunk to 28x28"),
        (
            "layers=20C5-P2-P2-50C7",
            "layers: 50C7 (layer 4) is larger than its input: there the 28x28 image has shrunk to 6x6",
        ),
        ("layers=P28-P2", "layers: P2 (layer 2) is larger than its input: there the 28x28 image has shrunk to 1x1"),
        ("layers=100N-20C5", "layers: 20C5 (layer 2) cannot follow a linear layer"),
        ("layers=100N-P2", "layers: P2 (layer 2) cannot follow a linear layer"),
        ("optimizer.schedule=cosine", "optimizer.schedule must be one of constant, one_cycle, got 'cosine'"),
        ("optimizer.warmup=1", "optimizer.warmup must be from 0 to below 1, got 1.0"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay must be 0 to 1000000, got -1.0"),
        ("augmentation.shift=-1", "augmentation.shift must be 0 to 28, got -1.0"),
        ("augmentation.rotation=nan", "augmentation.rotation must be 0 to 180, got nan"),
        ("augmentation.scale=1", "augmentation.scale must be from 0 to below 1, got 1.0"),
        ("track=all", "track must be one of metrics, distributions, got 'all'"),
        ("rotate=1", "unknown key 'rotate': did you mean augmentation.rotation?"),
        ("precision=float16", "precision must be one of full, bfloat16, got 'float16'"),
        (
            "fast.yml",
            "cannot read the config file fast.yml: No such file or directory "
            "(did you mean fast, a config of this project?)",
        ),
        (
            "configs/No_Norm.yaml",
            "cannot read the config file configs/No_Norm.yaml: No such file or directory "
            "(did you mean no_norm, a config of this project?)",
        ),
        (
            "smok",
            "cannot read the config file smok: No such file or directory "
            "(did you mean smoke, a config of this project?)",
        ),
        ("nowhere.yaml", "cannot read the config file nowhere.yaml: No such file or directory"),
        (
            "epochs",
            "cannot read the config file epochs: No such file or directory (settings are written key=value; configs: ",
        ),
    ],
)
def test_wrong_arguments(argument: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        read([argument])
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200


def test_a_batch_of_one_is_fine_without_normalization() -> None:
    assert read(["train_batch_size=1", "norm=none"])


def test_the_case_of_a_key() -> None:
    assert read(["BATCH_SIZE=32", "Lr=0.1"]) == {"train_batch_size": 32, "optimizer.learning_rate": 0.1}


def test_settings_that_need_others() -> None:
    assert read(["precision=bfloat16"])
    with pytest.raises(UsageError, match=r"precision=bfloat16 needs dtype=float32, got dtype=float64"):
        read(["precision=bfloat16", "dtype=float64"])
    with pytest.raises(UsageError, match=r"population_samples=100 needs a normalization, got norm=none"):
        read(["population_samples=100", "norm=none"])


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("norm=Torch", "torch"),
        ("optimizer.optimizer=adam", "Adam"),
        ("optimizer=sgd", "SGD"),
        ("dataset=mnist", "MNIST"),
    ],
)
def test_case_of_an_option(argument: str, value: str) -> None:
    assert list(read([argument]).values()) == [value]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile=true"], "track=distributions needs compile=false: compiled code hides the layers' inputs"),
        (["layers=9999N-2N"], "track=distributions is for at most 10000 channels, layers has 10001"),
    ],
)
def test_distributions_of_what_is_not_seen_or_too_much(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(["track=distributions", *arguments])
    assert str(raised.value) == message
    assert read(arguments)
