"""Running statistics under activation checkpointing: a batch counts once, although its forward pass runs twice.

Activation checkpointing (`torch.utils.checkpoint`) saves memory: the activations of a part of the network are discarded
after the forward pass, and computed again during the backward pass. The second forward pass processes the same batch.
If it updated the running statistics, a momentum of 0.1 would act as one of 0.19.

A forward pass that runs within a backward pass is taken for such a recomputation, in whichever way it was started:
`torch.utils.checkpoint` with or without reentrant autograd, `checkpoint_sequential`, checkpoints within checkpoints, or
an autograd function whose backward pass computes the activations again. The limit: a new batch that a hook of a
backward pass sends through the network is not counted either.

Batch renormalization uses the running statistics, which the first pass has updated: the second would compute something
else, and the gradients would be wrong. So it is refused. In a block of `frozen_statistics` it is not, since nothing
changes there; the block must then contain both the forward pass and the backward pass.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from labml_bn.norm.transforms import is_exporting


def is_recomputation() -> bool:
    """Whether this thread runs a backward pass, so that a forward pass is the second one for its batch."""
    return torch._C._current_graph_task_id() != -1  # private; PyTorch's checkpointing relies on it too


@torch.library.custom_op("labml_bn::is_recomputation", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def recomputation_flag(device: torch.device) -> Tensor:
    """`is_recomputation()` as a scalar of dtype bool, computed each time when a compiled graph runs.

    In a compiled graph, `is_recomputation()` would be a constant. The compiler cannot look into an operator, so this
    one is called each time: once for all layers, as its only argument is the device, which takes 6 µs. A CUDA graph
    would make a constant of it again, hence the tag.
    """
    return torch.full((), is_recomputation(), device=device)


@recomputation_flag.register_fake
def _(device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.bool, device=device)


def once_per_batch(update: Callable[..., None]) -> Callable[..., None]:
    """Decorate an update, in place, of the buffers of a layer, so that a recomputation leaves them as they are.

    An exported program has no such check, since it would need this package to run: it updates them each time.
    """

    @functools.wraps(update)
    def update_once(layer: nn.Module, *args: Any) -> None:
        if is_exporting():
            update(layer, *args)
        elif torch.compiler.is_compiling():
            _update_in_graph(layer, update, *args)
        elif not is_recomputation():
            update(layer, *args)

    return update_once


@torch.no_grad()
def _update_in_graph(layer: nn.Module, update: Callable[..., None], *args: Any) -> None:
    """Update the buffers, then choose between old and new values: a graph has no branches. No copy is made for it."""
    buffers = list(layer.buffers(recurse=False))
    before = [buffer.clone() for buffer in buffers]
    update(layer, *args)
    for buffer, old in zip(buffers, before, strict=True):
        buffer.copy_(torch.where(recomputation_flag(buffer.device), old, buffer))


def before_update(layer: nn.Module, *state: Tensor) -> tuple[Tensor, ...]:
    """`state`, buffers of the layer on which the output of this forward pass depends, and which it then updates.

    Raises RuntimeError if that is a recomputation, for which the state has changed since the first pass.
    """
    if not layer.track_running_stats or is_exporting():
        return state
    if torch.compiler.is_compiling():
        return tuple(first_pass_only(list(state)))
    refuse_recomputation()
    return state


@torch.library.custom_op("labml_bn::first_pass_only", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def first_pass_only(state: list[Tensor]) -> list[Tensor]:
    """Copies of `state`, each time when a compiled graph runs; raises RuntimeError in a recomputation.

    Without an operator, the compiler may compute values in the backward pass again from a buffer that has been updated
    since (in PyTorch 2.15, without a checkpoint, too). It does not compute the results of an operator again.
    """
    refuse_recomputation()
    return [tensor.clone() for tensor in state]


@first_pass_only.register_fake
def _(state: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in state]


@first_pass_only.register_vmap
def _(info: Any, in_dims: Any, state: list[Tensor]) -> Any:
    return first_pass_only(state), in_dims[0]


def refuse_recomputation() -> None:
    """Raise RuntimeError in a recomputation."""
    if is_recomputation():
        raise RuntimeError(
            "batch renormalization does not support activation checkpointing: the running statistics that it uses have "
            "changed when the forward pass is computed again; use the layer outside of the checkpoint"
        )
