"""Settings from config files, the command line and labml's record of a run."""

import os
from pathlib import Path

import pytest

from labml_bn.cli.errors import UsageError
from labml_bn.settings import complete, different, from_labml, from_record, read

CONFIGS = Path(__file__).parents[2] / "configs"


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


@pytest.mark.parametrize("word", ["my #1 dir", "2026", "no", "2026-13-01", "~", "a: b", "x]", "it's", "null"])
def test_strings_are_taken_literally(word: str) -> None:
    assert read([f"data_path={word}"]) == {"data_path": word}


@pytest.mark.parametrize(("word", "value"), [("010", 10), ("+3", 3), ("1_000", 1000)])
def test_whole_numbers_are_decimal(word: str, value: int) -> None:
    assert read([f"seed.seed={word}"]) == {"seed.seed": value}


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


def test_short_forms_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("lr: 0.01\nbatch_size: 32\nadam_eps: 1e-7\nseed: 3\n")
    assert read([str(tmp_path / "c.yaml")]) == {
        "optimizer.learning_rate": 0.01,
        "train_batch_size": 32,
        "optimizer.eps": 1e-7,
        "seed.seed": 3,
    }


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
