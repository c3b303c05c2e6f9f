"""labml's configuration: the network, optimizer, data sets and device of a run, computed from its settings.

The meaning and the default of each setting stand in `settings/keys.py`; labml gets every default from there.
"""

import platform
from importlib import metadata
from typing import Any

import torch
from labml.configs import BaseConfigs, meta_config, option
from labml_helpers.seed import SeedConfigs
from torch import nn

import labml_bn
from labml_bn.cli.files import resolve_folder
from labml_bn.data import augmentation, mnist
from labml_bn.data.mnist import ImageSet
from labml_bn.models import ConvNet, choose_device
from labml_bn.settings import default, parsed_layers
from labml_bn.training import optimizers
from labml_bn.training.labml_patches import silence_monitor


class Seed(SeedConfigs):  # type: ignore[misc]
    """labml-helpers' seeding of PyTorch and NumPy."""

    seed: int = default("seed.seed")


class Device(BaseConfigs):  # type: ignore[misc]
    """The device that trains."""

    use_cuda: bool = default("device.use_cuda")
    cuda_device: int = default("device.cuda_device")
    device: torch.device

    def __init__(self) -> None:
        super().__init__(_primary="device")


class Optimizer(BaseConfigs):  # type: ignore[misc]
    """The optimizer, in PyTorch's fused implementation: labml-helpers' are several times slower."""

    optimizer: torch.optim.Optimizer = default("optimizer.optimizer")
    parameters: Any
    learning_rate: float = default("optimizer.learning_rate")
    schedule: str = default("optimizer.schedule")
    warmup: float = default("optimizer.warmup")
    betas: list[float] = default("optimizer.betas")
    eps: float = default("optimizer.eps")
    momentum: float = default("optimizer.momentum")
    weight_decay: float = default("optimizer.weight_decay")

    def __init__(self) -> None:
        super().__init__(_primary="optimizer")


meta_config(Optimizer.parameters)


class Augmentation(BaseConfigs):  # type: ignore[misc]
    """How the training images are distorted."""

    shift: float = default("augmentation.shift")
    rotation: float = default("augmentation.rotation")
    scale: float = default("augmentation.scale")
    shear: float = default("augmentation.shear")
    elastic: float = default("augmentation.elastic")
    augmentation: augmentation.Augmentation

    def __init__(self) -> None:
        super().__init__(_primary="augmentation")


class Configs(BaseConfigs):  # type: ignore[misc]
    """A run: its settings, and below them the parts that labml computes."""

    epochs: int = default("epochs")
    dataset: str = default("dataset")
    norm: str = default("norm")
    network: str = default("network")
    layers: str = default("layers")
    train_batch_size: int = default("train_batch_size")
    valid_batch_size: int = default("valid_batch_size")
    inner_iterations: int = default("inner_iterations")
    train_samples: int = default("train_samples")
    valid_samples: int = default("valid_samples")
    held_out: int = default("held_out")
    population_samples: int = default("population_samples")
    channels_last: bool = default("channels_last")
    dtype: str = default("dtype")
    precision: str = default("precision")
    compile: bool = default("compile")
    track: str = default("track")
    checkpoint_interval: float = default("checkpoint_interval")
    keep: int = default("keep")
    data_path: str = default("data_path")
    logs_path: str = default("logs_path")

    # Not given a value here, but made by an option each: labml shares class-level values between runs of a process.
    seed: Seed
    device: torch.device
    optimizer: torch.optim.Optimizer
    augmentation: augmentation.Augmentation
    train_set: ImageSet
    valid_set: ImageSet
    test_set: ImageSet
    model: nn.Module
    versions: str
    data_folder: str

    def __init__(self) -> None:
        super().__init__()
        silence_monitor()


meta_config(Configs.track, Configs.checkpoint_interval, Configs.keep, Configs.data_path, Configs.logs_path)
meta_config(Configs.versions, Configs.data_folder)


@option(Configs.seed)
def _seed() -> Seed:
    return Seed()


@option(Configs.device)
def _device_configs() -> Device:
    return Device()


@option(Device.device)
def _device(c: Device) -> torch.device:
    return choose_device(c.use_cuda, c.cuda_device)


@option(Configs.optimizer)
def _optimizer(c: Configs) -> Optimizer:
    optimizer = Optimizer()
    optimizer.parameters = c.model.parameters()
    return optimizer


@option(Optimizer.optimizer, "Adam")
def _adam(c: Optimizer) -> torch.optim.Optimizer:
    betas = (c.betas[0], c.betas[1])
    return optimizers.Adam(_groups(c), c.learning_rate, betas, c.eps, decoupled_weight_decay=True, fused=True)


@option(Optimizer.optimizer, "SGD")
def _sgd(c: Optimizer) -> torch.optim.Optimizer:
    return optimizers.SGD(_groups(c), c.learning_rate, c.momentum, fused=True)


def _groups(c: Optimizer) -> list[dict[str, Any]]:
    """The parameters, grouped by their options, among them those that `set_learning_rate` needs.

    Biases and the parameters of normalizations, all of one dimension, are not decayed: they set the place and the scale
    of the activations, and do not overfit.
    """
    cycle = {"max_lr": c.learning_rate, "warmup": c.warmup} if c.schedule == "one_cycle" else {}
    parameters = list(c.parameters)
    if c.weight_decay == 0:
        return [{"params": parameters, **cycle}]
    weights = [parameter for parameter in parameters if parameter.dim() > 1]
    others = [parameter for parameter in parameters if parameter.dim() <= 1]
    return [{"params": weights, "weight_decay": c.weight_decay, **cycle}, {"params": others, **cycle}]


@option(Configs.augmentation)
def _augmentation_configs() -> Augmentation:
    return Augmentation()


@option(Augmentation.augmentation)
def _augmentation(c: Augmentation) -> augmentation.Augmentation:
    return augmentation.Augmentation(c.shift, c.rotation, c.scale, c.shear, c.elastic)


@option(Configs.model)
def _model(c: Configs) -> nn.Module:
    return placed(c, ConvNet(c.norm, parsed_layers(c.layers)))


def placed(c: Configs, model: nn.Module) -> nn.Module:
    """The network on the device, in the dtype and in the memory format of the settings."""
    model = model.to(c.device, getattr(torch, c.dtype))
    return model.to(memory_format=torch.channels_last) if c.channels_last else model


@option(Configs.train_set)
def _train_set(c: Configs) -> ImageSet:
    return _load(c, "train", c.train_samples)


@option(Configs.valid_set)
def _valid_set(c: Configs) -> ImageSet:
    return _load(c, "held_out", c.held_out) if c.held_out > 0 else c.test_set


@option(Configs.test_set)
def _test_set(c: Configs) -> ImageSet:
    return _load(c, "test", c.valid_samples)


def _load(c: Configs, part: str, samples: int) -> ImageSet:
    return mnist.load(
        c.dataset,
        resolve_folder(c.data_path),
        part,
        samples=samples,
        held_out=c.held_out,
        seed=c.seed.seed,
        device=c.device,
        dtype=getattr(torch, c.dtype),
    )


@option(Configs.versions)
def _versions() -> str:
    return (
        f"labml_bn {labml_bn.__version__}, torch {torch.__version__}, labml {metadata.version('labml')}, "
        f"Python {platform.python_version()}"
    )
