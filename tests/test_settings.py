"""Settings from files and the command line: which values are allowed, and how others are refused."""

import os
from pathlib import Path

import pytest

from labml_bn import settings
from labml_bn.cli.errors import UsageError
from labml_bn.data.download import CHECKSUMS
from labml_bn.data.mnist import CLASSES, PIXELS
from labml_bn.models import LAYERS, NORMS
from labml_bn.settings import (
    KEYS,
    as_typed,
    complete,
    default,
    different,
    from_labml,
    from_record,
    name_of,
    parsed_layers,
    read,
    short,
)

CONFIGS = Path(__file__).parents[1] / "configs"


def test_defaults_are_the_annotated_experiments() -> None:
    assert {key: default(key) for key in KEYS} == {
        "epochs": 10,
        "dataset": "MNIST",
        "norm": "batch_norm",
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


def test_every_default_is_allowed() -> None:
    for key in KEYS:
        assert settings._checked(key, default(key)) == default(key)


def test_the_options_are_those_of_the_other_rooms() -> None:
    """The settings import neither the networks nor the data sets, so they name their options themselves."""
    assert KEYS["norm"].takes == list(NORMS)
    assert tuple(parsed_layers(default("layers"))) == LAYERS
    assert KEYS["dataset"].takes == list(CHECKSUMS) == list(CLASSES) == list(PIXELS)


def test_no_arguments() -> None:
    assert read([]) == {}


def test_file_and_command_line(tmp_path: Path) -> None:
    """Nested and dotted keys are equivalent, and later ones override earlier ones."""
    file = tmp_path / "c.yaml"
    file.write_text("epochs: 3\noptimizer:\n  learning_rate: 1e-2\n  betas: [0, 0.5]\nseed.seed: 7\n")
    assert read([str(file), "epochs=4", "norm=none", "device.use_cuda=false", "data_path=a=b"]) == {
        "epochs": 4,
        "optimizer.learning_rate": 0.01,
        "optimizer.betas": [0.0, 0.5],
        "seed.seed": 7,
        "norm": "none",
        "device.use_cuda": False,
        "data_path": "a=b",
    }


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3", ".001"])
def test_ways_to_write_a_number(text: str) -> None:
    assert read([f"optimizer.learning_rate={text}"]) == {"optimizer.learning_rate": 0.001}


@pytest.mark.parametrize("name", ["batch_norm", "no_norm", "torch_norm", "smoke", "fashion"])
def test_the_configs_of_the_project(name: str) -> None:
    """Each can be read, and its first line is the command that runs it."""
    path = CONFIGS / f"{name}.yaml"
    assert read([str(path)])
    assert path.read_text().startswith(f"# python -m labml_bn.train configs/{name}.yaml\n")


def test_batch_norm_yaml_has_the_defaults() -> None:
    assert different(read([str(CONFIGS / "batch_norm.yaml")])) == {}


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
        ("epochs=[1", "epochs must be an integer, got '[1'"),
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
        ("optimizer.betas=" + "[" * 5000, "optimizer.betas must be a list like [0.8,0.9], got "),
        ("optimizer.betas=2001-13-45", "optimizer.betas must be a list like [0.8,0.9], got '2001-13-45'"),
        ("device.use_cuda=" + "[" * 5000, "device.use_cuda must be true or false, got "),
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


@pytest.mark.parametrize("word", ["my #1 dir", "2026", "no", "2026-13-01", "~", "a: b", "[x", "null"])
def test_strings_are_taken_literally(word: str) -> None:
    assert read([f"data_path={word}"]) == {"data_path": word}


@pytest.mark.parametrize(("word", "value"), [("010", 10), ("+3", 3), ("1_000", 1000)])
def test_whole_numbers_are_decimal(word: str, value: int) -> None:
    assert read([f"seed.seed={word}"]) == {"seed.seed": value}


def test_a_batch_of_one_is_fine_without_normalization() -> None:
    assert read(["train_batch_size=1", "norm=none"])


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


def test_the_case_of_a_key() -> None:
    assert read(["BATCH_SIZE=32", "Lr=0.1"]) == {"train_batch_size": 32, "optimizer.learning_rate": 0.1}


def test_settings_that_need_others() -> None:
    assert read(["precision=bfloat16"])
    with pytest.raises(UsageError, match=r"precision=bfloat16 needs dtype=float32, got dtype=float64"):
        read(["precision=bfloat16", "dtype=float64"])
    with pytest.raises(UsageError, match=r"population_samples=100 needs a normalization, got norm=none"):
        read(["population_samples=100", "norm=none"])


def test_a_record_of_an_earlier_version() -> None:
    """Settings that it did not have yet get their defaults."""
    assert complete(from_record({"norm": "none", "epochs": 3})) == {**complete({}), "norm": "none", "epochs": 3}


def test_a_config_of_the_project_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder; a file of that name in the working directory takes precedence."""
    monkeypatch.chdir(tmp_path)
    assert read(["no_norm", "epochs=1"]) == {"norm": "none", "epochs": 1}
    (tmp_path / "no_norm").write_text("norm: torch\n")
    assert read(["no_norm"]) == {"norm": "torch"}


@pytest.mark.parametrize("name", ["no_norm", "no-norm", "No_Norm", "NO-NORM"])
def test_spellings_of_a_config(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read([name]) == {"norm": "none"}


def test_one_config_file_only() -> None:
    with pytest.raises(UsageError, match=r"^'b\.yaml' cannot follow 'no_norm': write one config file, and"):
        read(["no_norm", "epochs=1", "b.yaml"])


@pytest.mark.parametrize("arguments", [["smoke", "epochs=1"], ["epochs=1", "smoke"], ["epochs=3", "smoke", "epochs=1"]])
def test_keys_override_the_file_in_any_order(arguments: list[str]) -> None:
    assert read(arguments) == {**read(["smoke"]), "epochs": 1}


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


def test_short_forms_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("lr: 0.01\nbatch_size: 32\nadam_eps: 1e-7\nseed: 3\n")
    assert read([str(tmp_path / "c.yaml")]) == {
        "optimizer.learning_rate": 0.01,
        "train_batch_size": 32,
        "optimizer.eps": 1e-7,
        "seed.seed": 3,
    }


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


def test_a_default_in_a_name() -> None:
    assert name_of(complete({}), also=["seed.seed"]) == "batch_norm seed=5"


RECORD = """
data_path: {value: elsewhere, computed: elsewhere, type: "<class 'str'>"}
device: {value: null, computed: cpu}
epochs: {value: 3, computed: 3}
logs_path: {value: there, computed: null}
keep: {value: null, computed: null}
optimizer: {value: null, computed: "Adam (Parameter Group 0)"}
optimizer.optimizer: {value: null, computed: "Adam (Parameter Group 0)"}
train_batch_size: {value: null, computed: 32}
"""


def test_labmls_record_of_a_run(tmp_path: Path) -> None:
    """The given values, and defaults that have been others. It does not choose where anything is stored."""
    file = tmp_path / "configs.yaml"
    file.write_text(RECORD)
    expected = {"epochs": 4, "train_batch_size": 32}  # neither its data folder nor its logs folder
    assert read([str(file), "epochs=4"]) == expected
    assert from_labml({"logs_path": {"value": "there", "computed": None}}) == {"logs_path": "there"}
    file.write_text(RECORD.replace("value: 3", "value: -3"))
    with pytest.raises(UsageError, match=r"configs.yaml: epochs must be at least 1, got -3$"):
        read([str(file)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs: [1\n", ", line 2: not valid YAML: "),
        (b"a: b: c\n", ", line 1: not valid YAML: "),
        (b"\x00", ": not valid YAML: "),
        (b"\xff\xfe\xfa", " is not a text file"),
        (b"- 1\n", ": expected lines of the form `key: value`"),
        (b"epoch: 1\n", ": unknown key 'epoch': did you mean epochs?"),
        (b"optimizer:\n  lr: 1\n", ": unknown key 'optimizer.lr'"),
        (b"epochs: -1\n", ": epochs must be at least 1, got -1"),
        (b"1: 2\n", ": unknown key '1'"),
        (b"epochs: 2001-13-45\n", ": not valid YAML: month must be in 1..12"),
        (b"epochs: !!bool x\n", ": not valid YAML: a value does not match its tag"),
        (b"epochs: &a\n  x: *a\n", ": not valid YAML: a value contains itself"),
        (b"[" * 5000, ": not valid YAML: it is nested more than 20 deep"),
        (b"epochs: 0x" + b"f" * 900 + b"\n", ": epochs is too large"),
        (b"optimizer.betas: [0x" + b"f" * 900 + b", 1]\n", ": optimizer.betas is too large"),
        (b"optimizer.learning_rate: 0x" + b"f" * 900 + b"\n", ": optimizer.learning_rate is too large"),
        (b"optimizer.learning_rate: " + b"9" * 400 + b"\n", ": optimizer.learning_rate is too large"),
    ],
)
def test_wrong_files(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError) as raised:
        read([str(file)])
    assert str(raised.value).startswith(f"{file}{message}")
    assert "\n" not in str(raised.value)


def test_files_without_an_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe is a named pipe, not a config file"):
        read([str(tmp_path / "pipe")])
    with pytest.raises(UsageError, match="/dev/zero is larger than 1 MiB"):
        read(["/dev/zero"])


def test_the_output_of_a_command_as_file() -> None:
    """In a shell: `train <(command)`."""
    reader, writer = os.pipe()
    os.write(writer, b"epochs: 3")
    os.close(writer)
    assert read([f"/dev/fd/{reader}"]) == {"epochs": 3}


def test_a_folder_as_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the config file"):
        read([str(tmp_path)])
