"""The four operations of `reference.py` on the CPU, with the ReLU fused: each is one pass over the input.

This file prepares the arguments; the loops are in `cpu_loops.py`. The output of `normalize` and `input_gradient` is in
the memory layout of x, contiguous or channels_last; an input with other strides is copied to a contiguous one first.
"""

import functools

import torch
from torch import Tensor

from labml_bn.norm.kernels import cpu_loops
from labml_bn.norm.kernels.cpu_loops import launch

#: Fewer values than this are processed by one thread: to start the others would take longer.
ONE_THREAD = 16_384

_compiled = functools.cache(cpu_loops.compiled)


def is_supported(x: Tensor) -> bool:
    """Whether this kernel has loops for the device and dtype of x."""
    return x.is_cpu and x.dtype in cpu_loops.STORAGE


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """As `reference.moments`."""
    x, sizes = _dense(x)
    n, channels, positions, threads, rows, columns = sizes
    loops = _compiled(x.dtype)
    parts = torch.empty(rows * 2 * channels, dtype=torch.float64)
    mean, var = torch.empty(2, channels, dtype=_arithmetic(x)).unbind()
    launch(loops["moments"], threads, n, channels, positions, rows, columns, x.data_ptr(), parts.data_ptr())
    addresses = (parts.data_ptr(), mean.data_ptr(), var.data_ptr())
    launch(loops["merged_moments"], 1, n, channels, positions, rows, *addresses)
    return mean, var


def normalize(
    x: Tensor, mean: Tensor, inv_std: Tensor, weight: Tensor | None, bias: Tensor | None, relu: bool = False
) -> Tensor:
    """As `reference.normalize`."""
    x, sizes = _dense(x)
    n, channels, positions, threads, rows, columns = sizes
    vectors = _vectors(x, mean, inv_std, weight, bias)
    y = torch.empty_like(x)
    addresses = (x.data_ptr(), y.data_ptr(), *[vector.data_ptr() for vector in vectors])
    launch(_compiled(x.dtype)["normalize"], threads, n, channels, positions, rows, columns, relu, *addresses)
    return y


def gradient_sums(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    inv_std: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """As `reference.gradient_sums`."""
    x, sizes = _dense(x)
    dy = _like(dy, x)
    n, channels, positions, threads, rows, columns = sizes
    vectors = _vectors(x, mean, inv_std, weight, bias)
    parts = torch.empty(rows, 2, channels, dtype=torch.float64)
    addresses = (x.data_ptr(), dy.data_ptr(), *[vector.data_ptr() for vector in vectors], parts.data_ptr())
    launch(_compiled(x.dtype)["gradient_sums"], threads, n, channels, positions, rows, columns, relu, *addresses)
    sum_dy, sum_dy_centered = parts.sum(0).to(mean.dtype)
    return sum_dy, sum_dy_centered * inv_std


def input_gradient(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    inv_std: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean_dy: Tensor | None,
    mean_dy_xhat: Tensor | None,
    relu: bool = False,
) -> Tensor:
    """As `reference.input_gradient`."""
    x, sizes = _dense(x)
    dy = _like(dy, x)
    n, channels, positions, threads, rows, columns = sizes
    vectors = _vectors(x, mean, inv_std, weight, bias)
    shift = slope = None
    if mean_dy is not None and mean_dy_xhat is not None:
        shift, slope = vectors[1] * mean_dy, vectors[1] * inv_std * mean_dy_xhat
    dx = torch.empty_like(x)
    pointers = [tensor.data_ptr() if tensor is not None else 0 for tensor in (x, dy, dx, *vectors, shift, slope)]
    launch(_compiled(x.dtype)["input_gradient"], threads, n, channels, positions, rows, columns, relu, *pointers)
    return dx


def _dense(x: Tensor) -> tuple[Tensor, tuple[int, int, int, int, int, int]]:
    """x without gaps between its values, and the sizes that the loops need: N, C, S, threads, rows, columns."""
    channels = x.shape[1]
    if x.is_contiguous():
        n, positions = x.shape[0], x.numel() // max(1, x.shape[0] * channels)
    elif _is_channels_last(x):
        n, positions = x.numel() // channels, 1
    else:
        return _dense(x.contiguous())
    threads = torch.get_num_threads() if x.numel() > ONE_THREAD else 1
    return x, (n, channels, positions, threads, *_grid(n, channels, positions, threads))


def _grid(n: int, channels: int, positions: int, threads: int) -> tuple[int, int]:
    """The number of rows and columns of tiles, none of them empty.

    Tiles of all channels need their sums merged, tiles of a few channels do not. But with the channels innermost, a
    tile of few channels uses only a part of each row.
    """
    if positions > 1 and (channels >= 2 * threads or n < threads):
        return 1, min(threads, channels)
    if positions == 1 and channels >= 16 * threads and n < 1024:
        return 1, threads
    return min(threads, max(n, 1)), 1


def _is_channels_last(x: Tensor) -> bool:
    if x.dim() == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    return x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)


def _like(dy: Tensor, x: Tensor) -> Tensor:
    """dy in the dtype and memory layout of x."""
    if dy.dtype == x.dtype and dy.stride() == x.stride():
        return dy
    return torch.empty_like(x).copy_(dy)


def _vectors(
    x: Tensor, mean: Tensor, inv_std: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, scale and bias, contiguous and in the dtype of the arithmetic."""
    dtype = _arithmetic(x)
    scale = inv_std if weight is None else inv_std * weight
    bias = torch.zeros_like(mean) if bias is None else bias
    return _as(mean, dtype), _as(scale, dtype), _as(bias, dtype)


def _as(vector: Tensor, dtype: torch.dtype) -> Tensor:
    return vector if vector.dtype == dtype and vector.is_contiguous() else vector.to(dtype).contiguous()


def _arithmetic(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
