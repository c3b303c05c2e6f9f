"""Putting this project's layer in the place of PyTorch's in a network that exists already, and back.

A layer keeps its tensors, its mode, its hooks and its place; what changes is its class. So an optimizer that holds the
parameters goes on holding them, and a layer that stands in two places of a network is still one layer.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from labml_bn.norm.batch_norm import BatchNorm, check_arguments
from labml_bn.norm.watching import evaluating, watching

_Network = TypeVar("_Network", bound=nn.Module)

#: PyTorch's layer for an input of so many dimensions.
_BY_DIMENSIONS: dict[int, type[nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}


def convert_batch_norm(model: _Network) -> _Network:
    """Make every `torch.nn.BatchNorm1d`, `2d` and `3d` of `model` a `BatchNorm`, in place; returns `model`.

    Subclasses of PyTorch's layers stay as they are, since they may compute something else. Raises ValueError, and
    changes nothing, where a layer has an `eps` or a `momentum` that `BatchNorm` does not take.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if type(layer) in _BY_DIMENSIONS.values()]
    for name, layer in layers:
        try:
            check_arguments(layer.num_features, layer.eps, layer.momentum)
        except ValueError as error:
            raise ValueError(f"cannot convert layer {name!r}: {error}") from error
    for _, layer in layers:
        layer._torch_class = type(layer)
        layer.unbiased = True
        layer.__class__ = BatchNorm
    return model


def restore_batch_norm(model: _Network, *example: Tensor) -> _Network:
    """Make every `BatchNorm` of `model` one of PyTorch's layers, in place; returns `model`.

    A converted layer becomes what it was. A layer that was a `BatchNorm` from the start takes inputs of any number of
    dimensions, while each of PyTorch's takes but one: `example`, an input of the network, shows which.

    Raises ValueError, and changes nothing, for a layer whose number of dimensions is not known, and for one with
    `unbiased=False`, which PyTorch does not have.
    """
    layers = {name: layer for name, layer in model.named_modules() if type(layer) is BatchNorm}
    dimensions = _dimensions(model, *example) if example else {}
    classes: dict[str, type[nn.Module]] = {}
    for name, layer in layers.items():
        if not layer.unbiased:
            raise ValueError(f"cannot restore layer {name!r}: PyTorch's layers have no unbiased=False")
        known = getattr(layer, "_torch_class", None) or _BY_DIMENSIONS.get(dimensions.get(layer, 0))
        if known is None:
            raise ValueError(
                f"cannot restore layer {name!r}: give restore_batch_norm an example input of the network "
                "that reaches it with 2 to 5 dimensions"
            )
        classes[name] = known
    for name, layer in layers.items():
        vars(layer).pop("_torch_class", None)
        del layer.unbiased
        layer.__class__ = classes[name]  # type: ignore[assignment]
    return model


@torch.no_grad()
def _dimensions(model: nn.Module, *example: Tensor) -> dict[nn.Module, int]:
    """The number of dimensions of the input of each `BatchNorm`, as the example reaches it."""
    seen: dict[nn.Module, int] = {}
    layers = [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
    with evaluating(model), watching(layers, lambda layer, x: seen.setdefault(layer, x.dim())):
        model(*example)
    return seen
