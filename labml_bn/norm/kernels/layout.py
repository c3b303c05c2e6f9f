"""The memory format of y and dx: channels_last if x is in it, else contiguous, as in PyTorch's layer.

It depends on x alone. Without a choice, the strides of y would be those of a transposed x, so that `view` fails, and
the strides of dx those of dy.
"""

import torch
from torch import Tensor

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(x: Tensor) -> bool:
    """Whether x is dense and in channels_last. With some sizes of 1, it is contiguous as well."""
    layout = CHANNELS_LAST.get(x.dim())
    return layout is not None and x.is_contiguous(memory_format=layout)


def memory_format(x: Tensor) -> torch.memory_format:
    """The format of the results for x, which may have any strides. A slice of a tensor in channels_last is in it, too.

    >>> x = torch.empty(4, 6, 5, 5, memory_format=torch.channels_last)
    >>> memory_format(x[:, :3]), memory_format(x.transpose(1, 3))
    (torch.channels_last, torch.contiguous_format)

    The stride of a dimension of size 1 has no meaning. Unlike `is_contiguous`, this also works under vmap, and for a
    batch size that is unknown when a network is exported.
    """
    if x.dim() not in CHANNELS_LAST:
        return torch.contiguous_format
    least = 1
    for dim in (1, *range(x.dim() - 1, 1, -1)):
        if x.shape[dim] > 1:
            if x.stride(dim) < least:
                return torch.contiguous_format
            least = x.stride(dim) * x.shape[dim]
    in_order = x.stride(0) >= least or x.shape[0] == 1
    return CHANNELS_LAST[x.dim()] if in_order else torch.contiguous_format


def in_format_of(x: Tensor, y: Tensor) -> Tensor:
    """Return y, a dense tensor in the shape of x, copied if it is not in the format that belongs to x."""
    if memory_format(x) is torch.contiguous_format:
        return y.contiguous()
    if memory_format(y) is not torch.contiguous_format:
        return y
    return y.movedim(1, -1).contiguous().movedim(-1, 1)  # vmap does not support `contiguous(memory_format=...)`
