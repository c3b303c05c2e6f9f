"""labml's configuration has every setting, with the default of `settings.py`, and computes the parts of a run."""

from pathlib import Path

import torch

from labml_bn.models import ConvNet
from labml_bn.settings import KEYS, default
from labml_bn.training.parts import Configs, Device, Optimizer, Seed

NESTED = {"seed": Seed, "device": Device, "optimizer": Optimizer}


def test_every_setting_is_passed_to_labml() -> None:
    """No default is hidden in labml-helpers: each class has all of its keys itself."""
    for key in KEYS:
        part, _, name = key.rpartition(".")
        assert vars(NESTED.get(part, Configs))[name].value == default(key), key


def test_labml_has_no_other_settings() -> None:
    computed = {"seed", "device", "optimizer", "train_set", "valid_set", "model", "versions"}
    assert set(Configs.__annotations__) - computed == {key for key in KEYS if "." not in key}
    assert set(Device.__annotations__) - {"device"} == {"use_cuda", "cuda_device"}
    keys = {key.removeprefix("optimizer.") for key in KEYS if key.startswith("optimizer.")}
    assert set(Optimizer.__annotations__) - {"parameters"} == keys


def test_values_override_defaults(data_path: Path) -> None:
    values = {
        "norm": "none",
        "dtype": "float64",
        "train_samples": 100,
        "optimizer.optimizer": "SGD",
        "optimizer.learning_rate": 0.25,
        "optimizer.momentum": 0.125,
        "device.use_cuda": False,
        "data_path": str(data_path),
    }
    c = Configs()
    c._set_values(values)
    assert isinstance(c.model, ConvNet)
    assert {parameter.dtype for parameter in c.model.parameters()} == {torch.float64}
    assert c.device == torch.device("cpu")
    assert isinstance(c.optimizer, torch.optim.SGD)
    (group,) = c.optimizer.param_groups
    assert (group["lr"], group["momentum"]) == (0.25, 0.125)
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in c.model.parameters()]
    assert (len(c.train_set), len(c.valid_set)) == (100, 10_000)


def test_two_runs_share_nothing() -> None:
    """labml shares class-level values between the runs of a process; the parts are not among them."""
    first, second = Configs(), Configs()
    first._set_values({"seed.seed": 1, "device.use_cuda": False})
    second._set_values({"device.use_cuda": False})
    assert (first.seed.seed, second.seed.seed) == (1, default("seed.seed"))
    assert first.model is not second.model
    assert first.optimizer is not second.optimizer
