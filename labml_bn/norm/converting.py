"""Converting the batch normalization layers of an existing network: PyTorch's to this project's, and back.

A conversion changes only the class of a layer. The layer remains the same object, with its tensors, mode and hooks. So
an optimizer keeps its references to the parameters, and a layer that occurs twice in a network remains one layer.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from labml_bn.norm.batch_norm import BatchNorm, check_arguments
from labml_bn.norm.dimensions import TORCH_CLASSES
from labml_bn.norm.hooks import evaluating, forward_pre_hook

_Network = TypeVar("_Network", bound=nn.Module)

#: PyTorch's layer for each number of input dimensions.
_BY_DIMENSIONS: dict[int, type[nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
#: This project's layer for each of PyTorch's.
_OURS = {torch_class: ours for ours, torch_class in TORCH_CLASSES.items()}
#: The arguments that PyTorch's layers do not have.
_EXTRAS = {
    "unbiased": "unbiased=False",
    "activation": "an activation",
    "max_pool": "max pooling",
    "ghost_batch_size": "ghost batches",
    "renorm": "batch renormalization",
}
_LAZY = (nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d)


def convert_batch_norm(model: _Network) -> _Network:
    """Convert every `torch.nn.BatchNorm1d`, `2d` and `3d` of `model` to this project's class of that name, in place.

    >>> model = convert_batch_norm(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)))
    >>> isinstance(model[1], BatchNorm), isinstance(model[1], nn.BatchNorm1d)
    (True, True)

    Subclasses of PyTorch's layers are not converted, since they may compute something else. Returns `model`. Raises
    ValueError, and changes nothing, if `BatchNorm` does not accept the `eps` or the `momentum` of a layer, or if a lazy
    layer has not been called: its first call would turn it into one of PyTorch's layers.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if type(layer) in (*_OURS, *_LAZY)]
    for name, layer in layers:
        if type(layer) in _LAZY:
            raise ValueError(f"cannot convert layer {name!r}: it is lazy and not initialized; call the network first")
        try:
            check_arguments(None, layer.eps, layer.momentum)
        except ValueError as error:
            raise ValueError(f"cannot convert layer {name!r}: {error}") from error
    for _, layer in layers:
        layer.__class__ = _OURS[type(layer)]
    return model


def restore_batch_norm(model: _Network, *example: Tensor) -> _Network:
    """Convert every `BatchNorm` of `model` to one of PyTorch's layers, in place.

    A `BatchNorm1d`, `2d` or `3d`, such as a converted layer, gets PyTorch's class of that name. A `BatchNorm` accepts
    any number of input dimensions; `example`, an input of the network, determines which of PyTorch's classes to use.

    >>> model = restore_batch_norm(nn.Sequential(nn.Linear(4, 2), BatchNorm(2)), torch.zeros(1, 4))
    >>> type(model[1]).__name__
    'BatchNorm1d'

    Returns `model`. Raises ValueError, and changes nothing, if the number of input dimensions of a layer is unknown, or
    if a layer has `unbiased=False`, an activation, max pooling, ghost batches or batch renormalization or is frozen,
    which PyTorch's layers do not support.
    """
    layers = {name: layer for name, layer in model.named_modules() if type(layer) in (BatchNorm, *TORCH_CLASSES)}
    dimensions = _input_dimensions(model, *example) if example else {}
    classes: dict[str, type[nn.Module]] = {}
    for name, layer in layers.items():
        for attribute, meaning in _EXTRAS.items():
            if getattr(layer, attribute) != getattr(BatchNorm, attribute):
                raise ValueError(f"cannot restore layer {name!r}: PyTorch's layers do not support {meaning}")
        if layer.frozen:
            raise ValueError(f"cannot restore layer {name!r}: it is frozen; call unfreeze(model) first")
        torch_class = TORCH_CLASSES.get(type(layer)) or _BY_DIMENSIONS.get(dimensions.get(layer, 0))
        if torch_class is None:
            raise ValueError(
                f"cannot restore layer {name!r}: pass restore_batch_norm an example input of the network "
                "that reaches it with 2 to 5 dimensions"
            )
        classes[name] = torch_class
    for name, layer in layers.items():
        for attribute in _EXTRAS:
            vars(layer).pop(attribute, None)
        layer.__class__ = classes[name]
    return model


@torch.no_grad()
def _input_dimensions(model: nn.Module, *example: Tensor) -> dict[nn.Module, int]:
    """The number of input dimensions of each `BatchNorm` that the network calls for the example."""
    dimensions: dict[nn.Module, int] = {}
    layers = [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
    with evaluating(model), forward_pre_hook(layers, lambda layer, x, _: dimensions.setdefault(layer, x.dim())):
        model(*example)
    return dimensions
