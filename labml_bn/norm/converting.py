"""Converting the batch normalization layers of an existing network: PyTorch's to this project's, and back.

A conversion changes only the class of a layer. The layer remains the same object, with its tensors, mode and hooks. So
an optimizer keeps its references to the parameters, and a layer that occurs twice in a network remains one layer.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from labml_bn.norm.batch_norm import BatchNorm, check_arguments
from labml_bn.norm.hooks import evaluating, forward_pre_hook

_Network = TypeVar("_Network", bound=nn.Module)

#: PyTorch's layer for each number of input dimensions.
_BY_DIMENSIONS: dict[int, type[nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}


def convert_batch_norm(model: _Network) -> _Network:
    """Convert every `torch.nn.BatchNorm1d`, `2d` and `3d` of `model` to a `BatchNorm`, in place.

    >>> model = convert_batch_norm(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)))
    >>> type(model[1]).__name__
    'BatchNorm'

    Subclasses of PyTorch's layers are not converted, since they may compute something else. Returns `model`. Raises
    ValueError, and changes nothing, if `BatchNorm` does not accept the `eps` or the `momentum` of a layer.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if type(layer) in _BY_DIMENSIONS.values()]
    for name, layer in layers:
        try:
            check_arguments(layer.num_features, layer.eps, layer.momentum)
        except ValueError as error:
            raise ValueError(f"cannot convert layer {name!r}: {error}") from error
    for _, layer in layers:
        layer._torch_class = type(layer)
        layer.__class__ = BatchNorm
    return model


def restore_batch_norm(model: _Network, *example: Tensor) -> _Network:
    """Convert every `BatchNorm` of `model` to one of PyTorch's layers, in place.

    A converted layer gets its original class. A layer that was created as a `BatchNorm` accepts any number of input
    dimensions, but PyTorch has a class for each; `example`, an input of the network, determines which class to use.

    >>> model = restore_batch_norm(nn.Sequential(nn.Linear(4, 2), BatchNorm(2)), torch.zeros(1, 4))
    >>> type(model[1]).__name__
    'BatchNorm1d'

    Returns `model`. Raises ValueError, and changes nothing, if the number of input dimensions of a layer is unknown, or
    if a layer has `unbiased=False`, an activation or max pooling or is frozen, which PyTorch's layers do not support.
    """
    layers = {name: layer for name, layer in model.named_modules() if type(layer) is BatchNorm}
    dimensions = _input_dimensions(model, *example) if example else {}
    classes: dict[str, type[nn.Module]] = {}
    for name, layer in layers.items():
        if not layer.unbiased:
            raise ValueError(f"cannot restore layer {name!r}: PyTorch's layers do not support unbiased=False")
        if layer.activation is not None:
            raise ValueError(f"cannot restore layer {name!r}: PyTorch's layers do not support an activation")
        if layer.max_pool is not None:
            raise ValueError(f"cannot restore layer {name!r}: PyTorch's layers do not support max pooling")
        if layer.frozen:
            raise ValueError(f"cannot restore layer {name!r}: it is frozen; call unfreeze(model) first")
        torch_class = getattr(layer, "_torch_class", None) or _BY_DIMENSIONS.get(dimensions.get(layer, 0))
        if torch_class is None:
            raise ValueError(
                f"cannot restore layer {name!r}: pass restore_batch_norm an example input of the network "
                "that reaches it with 2 to 5 dimensions"
            )
        classes[name] = torch_class
    for name, layer in layers.items():
        for attribute in ("_torch_class", "unbiased", "activation", "max_pool"):
            vars(layer).pop(attribute, None)
        layer.__class__ = classes[name]  # type: ignore[assignment]
    return model


@torch.no_grad()
def _input_dimensions(model: nn.Module, *example: Tensor) -> dict[nn.Module, int]:
    """The number of input dimensions of each `BatchNorm` that the network calls for the example."""
    dimensions: dict[nn.Module, int] = {}
    layers = [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
    with evaluating(model), forward_pre_hook(layers, lambda layer, x: dimensions.setdefault(layer, x.dim())):
        model(*example)
    return dimensions
