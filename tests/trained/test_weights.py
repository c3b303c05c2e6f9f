"""Saving and loading the weights of a run; damaged and foreign files are refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from labml_bn.cli.errors import UserError
from labml_bn.models import ConvNet
from labml_bn.settings import complete
from labml_bn.trained.weights import FORMAT, WEIGHTS, _digest, load_weights, save_weights


@pytest.mark.parametrize("norm", ["batch_norm", "torch", "none"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip(norm: str, dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ConvNet(norm).to(getattr(torch, dtype))
    model(torch.randn(4, 1, 28, 28, dtype=getattr(torch, dtype)))
    settings = complete({"norm": norm, "dtype": dtype, "epochs": 3, "device.use_cuda": False})
    save_weights(tmp_path / WEIGHTS, model, settings)
    trained = load_weights(tmp_path / WEIGHTS, data_path="elsewhere")
    torch.testing.assert_close(dict(trained.model.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    assert not trained.model.training
    assert trained.settings == {**settings, "data_path": "elsewhere"}
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]


def test_the_weights_of_a_run(trained: Path) -> None:
    with safetensors.safe_open(trained / WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == FORMAT
    assert json.loads(metadata["settings"])["train_samples"] == 6000
    assert oct((trained / WEIGHTS).stat().st_mode) == oct((trained / "run.yaml").stat().st_mode)


def missing(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def header_altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20] ^= 0xFF
    path.write_bytes(bytes(content))


def data_altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5000] ^= 0x01
    path.write_bytes(bytes(content))


def settings_altered(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'train_samples\\": 6000', b'train_samples\\": 7000'))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def no_settings(path: Path) -> None:
    rewritten(path, settings="[]")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("not weights")


def rewritten(path: Path, **changes: Any) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **changes}
    tensors = load_file(path)
    metadata["sha256"] = _digest(tensors, metadata["settings"])
    save_file(tensors, path, metadata=metadata)


def someone_elses(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def other_version(path: Path) -> None:
    rewritten(path, format="labml_bn 99")


def other_keys(path: Path) -> None:
    rewritten(path, settings=json.dumps({"depth": 3}))


def other_settings(path: Path) -> None:
    rewritten(path, settings=json.dumps({"norm": "none"}))


def other_dtype(path: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    with safetensors.safe_open(path, framework="pt") as file:
        save_file(tensors, path, metadata=file.metadata())


def other_network(path: Path) -> None:
    save_weights(path, torch.nn.Linear(2, 3), {"norm": "torch"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, "has no weights: the run has not finished"),
        (truncated, "cannot be read, or is damaged"),
        (header_altered, "cannot be read, or is damaged"),
        (data_altered, "is damaged: checksum mismatch"),
        (settings_altered, "is damaged: checksum mismatch"),
        (folder, "has no weights: the run has not finished"),
        (no_settings, "has unknown settings"),
        (empty, "cannot be read, or is damaged"),
        (text, "cannot be read, or is damaged"),
        (someone_elses, "was not written by this version of labml_bn"),
        (other_version, "was not written by this version of labml_bn"),
        (other_keys, "has unknown settings: unknown key 'depth'"),
        (other_settings, "does not match the architecture in its settings"),
        (other_dtype, "has weights of another dtype: BF16"),
        (other_network, "does not match the architecture in its settings"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_unusable_weights(damage: Any, message: str, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS
    shutil.copy(trained / WEIGHTS, path)
    damage(path)
    with pytest.raises(UserError, match=message) as raised:
        load_weights(path)
    assert "\n" not in str(raised.value)
    assert str(path.parent) in str(raised.value)


def test_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write the weights"):
        save_weights(tmp_path / "missing" / WEIGHTS, ConvNet(), {})
