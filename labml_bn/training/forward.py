"""The network's forward pass in a training step, which settings change: compiled, in bfloat16.

Evaluations call the network itself: it is what is saved.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from labml_bn.cli.errors import UserError
from labml_bn.training.parts import Configs


def make_forward(c: Configs) -> Callable[[Tensor], Tensor]:
    """The forward pass from images to logits, with the parameters of `c.model`, as the settings say."""
    # For each batch size its own code: code for any size would be slower, and a run would use it from its first smaller
    # batch on, a resumed run from a later one, with other rounding errors.
    forward: Callable[[Tensor], Tensor] = torch.compile(c.model, dynamic=False) if c.compile else c.model
    if c.precision == "full":
        return forward

    def in_bfloat16(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            logits = forward(images)
        return logits.to(images.dtype)

    return in_bfloat16


def check_compiler(device: torch.device) -> None:
    """Raise UserError if `torch.compile` does not work on this machine, for example without a C++ compiler."""
    try:
        torch.compile(torch.neg)(torch.zeros(2, device=device))
    except Exception as error:  # torch lets through whatever its compilers raise
        why = str(error).splitlines()[0]
        raise UserError(
            f"compile=true needs torch.compile and a C++ compiler (environment variable CXX): {why}"
        ) from error
