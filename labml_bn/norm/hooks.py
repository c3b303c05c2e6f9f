"""Context managers for looking into a network: evaluation mode and forward pre-hooks, both undone at the end."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

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
