"""Context managers for looking into a network, undone at the end: evaluation mode, forward pre-hooks, no graphs."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set every module of `model` to evaluation mode for the block, then restore the mode of each.

    The attribute is set directly, because `model.eval()` also calls overridden `train` methods, which may have side
    effects.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """In the block, functions and networks that `torch.compile` has compiled run as if they were not.

    They would be compiled again for each hook and mode, and not at all with `fullgraph=True`, since a graph cannot
    contain such a hook.
    """
    if "torch._dynamo" not in sys.modules:  # so nothing is compiled; importing it takes a second
        return contextlib.nullcontext()
    eager: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eager


@contextlib.contextmanager
def forward_pre_hook(layers: Iterable[nn.Module], hook: Callable[[Any, Tensor, Tensor | None], Any]) -> Iterator[None]:
    """Within the block, call `hook(layer, input, mask)` before each forward pass of each layer. Its result is ignored.

    The mask is None if the layer is called without one.
    """

    def call_hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hook(layer, args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs.get("mask"))

    handles = [layer.register_forward_pre_hook(call_hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
