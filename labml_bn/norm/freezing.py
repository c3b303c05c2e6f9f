r"""Layers whose running statistics stay as they are: for a block of code, or until further notice.

**For a block**: `frozen_statistics`. In training, the layers go on normalizing with the statistics of the batch, but do
not average them. Sharpness-aware minimization (Foret et al. 2021, arXiv 2010.01412) and other optimizers that compute
the gradient twice per step need this: their second forward pass is that of the same batch with other weights, which the
network never has outside of the step.

**Until further notice**: `freeze`. In training, the layers normalize with their running statistics, as in evaluation.
This is how networks are fine-tuned on batches that are too small for statistics of their own. `model.train()`, which
training loops call for each epoch, does not change it; `unfreeze` does.

Neither changes the state dict. Neither stops $\gamma$ and $\beta$ from learning: `layer.requires_grad_(False)` does.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bn.norm.batch_norm import BatchNorm
from labml_bn.norm.dimensions import TORCH_CLASSES

_Network = TypeVar("_Network", bound=nn.Module)

#: The attribute that a layer has in blocks of `frozen_statistics`: in how many, and its `track_running_stats` outside.
_BLOCKS = "_frozen_blocks"
_lock = threading.Lock()


@contextlib.contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Within the block, keep the running statistics of all batch normalization layers of `model` as they are.

    >>> import torch
    >>> layer = BatchNorm(2)
    >>> with frozen_statistics(layer):
    ...     y = layer(torch.tensor([[0.0, 2.0], [4.0, 4.0]]))
    >>> layer.num_batches_tracked.item(), layer.running_mean.tolist()
    (0, [0.0, 0.0])

    It supports this project's layers and PyTorch's. Outputs and gradients are those without the block: in training, the
    layers normalize with the batch, in evaluation with the running statistics. Blocks can be nested, and overlap in
    generators and threads. They are for the model, in whichever thread it is called. A function that `torch.compile`
    has compiled is compiled once more for its first call in a block.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    entered = []
    try:
        with _locked():
            for layer in layers:
                _enter_block(layer)
                entered.append(layer)
        yield
    finally:
        with _locked():
            for layer in entered:
                _leave_block(layer)


def _locked() -> contextlib.AbstractContextManager[Any]:
    """The lock that makes changes in several threads follow each other. A graph cannot contain it."""
    return contextlib.nullcontext() if torch.compiler.is_compiling() else _lock


def _enter_block(layer: _BatchNorm) -> None:
    """Stop the layer from updating the running statistics and counting batches; in evaluation it still uses them."""
    blocks, tracks = getattr(layer, _BLOCKS, (0, layer.track_running_stats))
    setattr(layer, _BLOCKS, (blocks + 1, tracks))
    layer.track_running_stats = False


def _leave_block(layer: _BatchNorm) -> None:
    blocks, tracks = getattr(layer, _BLOCKS)
    if blocks > 1:
        setattr(layer, _BLOCKS, (blocks - 1, tracks))
    else:
        layer.track_running_stats = tracks
        delattr(layer, _BLOCKS)


def freeze(model: _Network) -> _Network:
    """Keep every `BatchNorm` of `model` in evaluation, in place, whatever `train` is called with from now on.

    >>> model = freeze(nn.Sequential(nn.Linear(4, 2), BatchNorm(2))).train()
    >>> [module.training for module in model]
    [True, False]

    A frozen layer has `layer.frozen` set, also in copies and pickles. `model` may be a single layer. Weight and bias go
    on learning, unless `requires_grad_(False)` stops them too. `estimate_population` sets the statistics of frozen
    layers as well. Returns `model`. Raises ValueError, and changes nothing, if a batch normalization layer is not a
    `BatchNorm`, such as PyTorch's, which have no such state, or keeps no running statistics.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    ours = [layer for layer in layers.values() if isinstance(layer, BatchNorm)]
    for name, layer in layers.items():
        if layer not in ours:
            kind, convertible = type(layer).__name__, type(layer) in TORCH_CLASSES.values()
            remedy = "call convert_batch_norm(model) first" if convertible else "it is not a BatchNorm of this project"
            raise ValueError(f"cannot freeze layer {name!r}, a {kind}: {remedy}")
        if layer.running_mean is None:
            raise ValueError(f"cannot freeze layer {name!r}: no running statistics (track_running_stats=False)")
    for layer in ours:
        if not layer.frozen:
            layer.frozen = True
            layer.train(layer.training)  # the mode is kept for `unfreeze`
    return model


def unfreeze(model: _Network) -> _Network:
    """Revert `freeze`, in place: each layer gets the mode that `train` or `eval` was last called for.

    >>> model = unfreeze(freeze(nn.Sequential(nn.Linear(4, 2), BatchNorm(2))).train())
    >>> [module.training for module in model]
    [True, True]

    Layers that are not frozen remain as they are. Returns `model`.
    """
    for layer in model.modules():
        if isinstance(layer, BatchNorm) and layer.frozen:
            mode = layer.unfrozen_mode
            del layer.frozen, layer.unfrozen_mode  # of the class, `frozen` is False
            layer.train(mode)
    return model
