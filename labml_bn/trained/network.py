"""The network that a file describes, without trusting the file: nothing is allocated that it does not contain."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from labml_bn.cli.errors import UserError
from labml_bn.models import ConvNet
from labml_bn.settings import default, parsed_layers

#: So many values of a layer, for all images of a batch, are computed at a time in an evaluation: 1 GiB in float32.
MOST_VALUES = 1 << 28


def is_own(settings: Mapping[str, Any]) -> bool:
    """Whether the network of these settings is a program's own, which they name but do not describe."""
    return bool(settings.get("network", default("network")) != default("network"))


def own(settings: Mapping[str, Any]) -> str:
    """What to say of such a network: how it can be used."""
    name = settings["network"]
    return f"the network {name} was made by a Python program, not from settings: only that program can use it"


def make_network(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ConvNet:
    """The network with these settings, every key given, and copies of its state in `tensors`, on their device.

    Raises RuntimeError if the state does not match the network, UserError if the network is a program's own.
    """
    if is_own(settings):
        raise UserError(own(settings))
    with torch.device("meta"):
        network = ConvNet(settings["norm"], parsed_layers(settings["layers"]))
    state = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    network.load_state_dict(state, assign=True)
    return network


def check_network(settings: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise RuntimeError unless the network with these settings has parameters and buffers of these shapes."""
    make_network(settings, {name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()})


def evaluation_batch_size(settings: Mapping[str, Any]) -> int:
    """`valid_batch_size`, or fewer images if a layer of so many would exceed `MOST_VALUES`."""
    side, most = 28, 28 * 28
    for kind, width, size, stride in parsed_layers(settings["layers"]):
        if kind != "N":
            side = (side - size) // stride + 1
        if kind == "C":
            most = max(most, width * side * side)
    batch_size: int = settings["valid_batch_size"]
    return max(1, min(batch_size, MOST_VALUES // most))
