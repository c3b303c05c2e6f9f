"""What several tests of the layer share."""

import torch
from torch import Tensor, nn


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """The bytes that autograd saves for the backward pass, without the input itself and each storage once."""
    storages = {}

    def save(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        layer(x)
    storages.pop(x.untyped_storage().data_ptr(), None)
    return sum(storages.values())
