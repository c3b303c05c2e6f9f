"""Context managers that leave a network as it was, bit by bit: its modes, its buffers and the random state."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from labml_bn.norm.hooks import evaluating, uncompiled


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """In the block, every module is in evaluation mode and has copies of its buffers. After it, all is as before.

    A compiled network is not compiled for it.
    """
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    copies: dict[int, Tensor] = {}  # a buffer that two modules share is one buffer in the block too
    with torch.no_grad(), uncompiled(), evaluating(model):
        try:
            for module, originals in buffers:
                for name, buffer in originals.items():
                    if buffer is not None:
                        module._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
            yield
        finally:
            for module, originals in buffers:
                module._buffers.update(originals)


@contextlib.contextmanager
def same_random_numbers(model: nn.Module) -> Iterator[None]:
    """Restore the state of PyTorch's random generators at the end.

    So each pass sees the same data if they are shuffled or augmented at random.
    """
    devices = {tensor.device.index for tensor in model.parameters() if tensor.is_cuda}
    with torch.random.fork_rng(sorted(devices)):
        yield
