"""labml's configuration has every setting, with the default of `settings/keys.py`, and computes the parts of a run."""

from pathlib import Path

import pytest
import torch

from labml_bn.data import augmentation
from labml_bn.data.mnist import stratified
from labml_bn.models import ConvNet
from labml_bn.settings import KEYS, default
from labml_bn.training.parts import Augmentation, Configs, Device, Optimizer, Seed

NESTED = {"seed": Seed, "device": Device, "optimizer": Optimizer, "augmentation": Augmentation}


def test_every_setting_is_passed_to_labml() -> None:
    """No default is hidden in labml-helpers: each class has all of its keys itself."""
    for key in KEYS:
        part, _, name = key.rpartition(".")
        assert vars(NESTED.get(part, Configs))[name].value == default(key), key


def test_labml_has_no_other_settings() -> None:
    computed = {
        "seed",
        "device",
        "optimizer",
        "augmentation",
        "train_set",
        "valid_set",
        "test_set",
        "model",
        "versions",
        "data_folder",
    }
    assert set(Configs.__annotations__) - computed == {key for key in KEYS if "." not in key}
    assert set(Device.__annotations__) - {"device"} == {"use_cuda", "cuda_device"}
    keys = {key.removeprefix("optimizer.") for key in KEYS if key.startswith("optimizer.")}
    assert set(Optimizer.__annotations__) - {"parameters"} == keys
    keys = {key.removeprefix("augmentation.") for key in KEYS if key.startswith("augmentation.")}
    assert set(Augmentation.__annotations__) - {"augmentation"} == keys


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


def test_held_out_images(data_path: Path) -> None:
    """They are validated on, and not trained on; the test images stay as they are."""
    every, c = Configs(), Configs()
    every._set_values({"data_path": str(data_path), "valid_samples": 500})
    c._set_values({"data_path": str(data_path), "held_out": 1000, "valid_samples": 500, "seed.seed": 7})
    chosen = stratified(every.train_set.labels, 1000, seed=7)
    assert torch.equal(c.valid_set.images, every.train_set.images[chosen])
    assert torch.equal(c.train_set.images, every.train_set.images[~chosen])
    assert torch.equal(c.test_set.images, every.test_set.images)
    assert every.valid_set is every.test_set


def test_the_augmentation() -> None:
    c = Configs()
    c._set_values({"augmentation.shift": 2.0, "augmentation.elastic": 1.0})
    assert c.augmentation == augmentation.Augmentation(shift=2.0, elastic=1.0)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_weight_decay_and_schedule(name: str) -> None:
    """Only the weights of convolutions and linear layers are decayed; the schedule is that of all parameters."""
    c = Configs()
    settings = {"optimizer.optimizer": name, "optimizer.weight_decay": 0.125, "optimizer.schedule": "one_cycle"}
    c._set_values({"norm": "none", "device.use_cuda": False, **settings})
    decayed, others = c.optimizer.param_groups
    named = dict(c.model.named_parameters())
    assert {id(p) for p in decayed["params"]} == {id(named[key]) for key in named if key.endswith("weight")}
    assert {id(p) for p in others["params"]} == {id(named[key]) for key in named if key.endswith("bias")}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.125, 0)
    assert {(group["max_lr"], group["warmup"]) for group in c.optimizer.param_groups} == {(0.001, 0.3)}

    normalized = Configs()
    normalized._set_values({"device.use_cuda": False, **settings})
    decayed, _ = normalized.optimizer.param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)]


def test_adam_decays_as_adamw() -> None:
    c = Configs()
    c._set_values({"optimizer.weight_decay": 0.5, "device.use_cuda": False})
    weight = c.model.get_parameter("fc2.weight")
    before = weight.detach().clone()
    for parameter in c.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    c.optimizer.step()
    torch.testing.assert_close(weight.detach(), before * (1 - 0.001 * 0.5))


def test_two_runs_share_nothing() -> None:
    """labml shares class-level values between the runs of a process; the parts are not among them."""
    first, second = Configs(), Configs()
    first._set_values({"seed.seed": 1, "device.use_cuda": False})
    second._set_values({"device.use_cuda": False})
    assert (first.seed.seed, second.seed.seed) == (1, default("seed.seed"))
    assert first.model is not second.model
    assert first.optimizer is not second.optimizer
