"""The parts of a training run, such as the network and its optimizer, as labml works them out from the settings.

What each setting means and takes stands in `settings.py`.
"""

import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import torch
from labml.configs import BaseConfigs, meta_config, option
from labml.internal.monitor import monitor_singleton
from labml_helpers.device import DeviceConfigs
from labml_helpers.optimizer import OptimizerConfigs
from labml_helpers.seed import SeedConfigs

import labml_bn
from labml_bn import mnist
from labml_bn.files import folder
from labml_bn.mnist import Digits
from labml_bn.models import ConvNet


class Optimizer(OptimizerConfigs):  # type: ignore[misc]
    """labml-helpers' optimizers, with the defaults of this experiment."""

    optimizer: torch.optim.Optimizer = "Adam"  # type: ignore[assignment]
    learning_rate: float = 0.001
    betas: list[float] = [0.9, 0.999]  # noqa: RUF012 - labml reads it as a default


class Configs(BaseConfigs):  # type: ignore[misc]
    """A training run: its settings with their defaults, and below them the parts that labml works out."""

    epochs: int = 10
    dataset: str = "MNIST"
    norm: str = "batch_norm"
    train_batch_size: int = 64
    valid_batch_size: int = 1024
    inner_iterations: int = 10
    train_samples: int = 60_000
    valid_samples: int = 10_000
    dtype: str = "float32"
    checkpoint_interval: float = 1.0
    keep: int = 2
    data_path: str = "data"
    logs_path: str = "logs"

    seed: SeedConfigs
    device: torch.device
    optimizer: torch.optim.Optimizer

    train_digits: Digits
    valid_digits: Digits
    model: ConvNet
    versions: str

    def __init__(self) -> None:
        super().__init__()
        # labml reports each part that it works out, with colours and carriage returns, also into a file.
        monitor_singleton().silent()


#: Where a setting's default stands, by what is before the dot in its key.
PARTS: dict[str, Any] = {"": Configs, "optimizer": Optimizer, "seed": SeedConfigs, "device": DeviceConfigs}

meta_config(Configs.checkpoint_interval, Configs.keep, Configs.data_path, Configs.logs_path, Configs.versions)


@option(Configs.seed)
def _seed() -> SeedConfigs:
    return SeedConfigs()


@option(Configs.device)
def _device() -> DeviceConfigs:
    return DeviceConfigs()


@option(Configs.optimizer)
def _optimizer(c: Configs) -> Optimizer:
    optimizer = Optimizer()
    optimizer.parameters = c.model.parameters()
    return optimizer


@option(Configs.model)
def _model(c: Configs) -> ConvNet:
    return ConvNet(c.norm).to(c.device, getattr(torch, c.dtype))


@option(Configs.train_digits)
def _train_digits(c: Configs) -> Digits:
    return _digits(c, train=True, samples=c.train_samples)


@option(Configs.valid_digits)
def _valid_digits(c: Configs) -> Digits:
    return _digits(c, train=False, samples=c.valid_samples)


def _digits(c: Configs, *, train: bool, samples: int) -> Digits:
    dtype = getattr(torch, c.dtype)
    return mnist.load(c.dataset, folder(c.data_path), train=train, samples=samples, device=c.device, dtype=dtype)


@option(Configs.versions)
def _versions() -> str:
    return (
        f"labml_bn {labml_bn.__version__}, torch {torch.__version__}, labml {metadata.version('labml')}, "
        f"Python {platform.python_version()}"
    )


def configure(settings: Mapping[str, Any]) -> Configs:
    """The configuration of these settings without an experiment around it: a network, images, a device to use."""
    c = Configs()
    c._set_values(dict(settings))
    return c
