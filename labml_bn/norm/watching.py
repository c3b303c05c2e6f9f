"""Looking into a network while it runs, and leaving it as it was."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module of `model` in evaluation for the block, then each back into the mode that it had.

    The modes are set directly: `model.eval()` would also run what a module does of its own when it changes modes.
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
def watching(layers: Iterable[nn.Module], look: Callable[[Any, Tensor], Any]) -> Iterator[None]:
    """Show `look` each of the layers, and the input that reaches it, whenever it is called in the block."""

    def hook(layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        look(layer, args[0] if args else kwargs["input"])

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
