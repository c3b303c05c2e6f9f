"""The four operations of `reference.py` on the CPU, with the ReLU fused: each is one pass over the input.

This file prepares the arguments; the loops are in `cpu_loops.py`. The output of `normalize` and `input_gradient` is in
the memory layout of x, contiguous or channels_last; an input with other strides is copied first, to the one of the two
that `layout.py` chooses.

Max pooling can be fused too, for images in channels_last (`can_pool`): only the maximum of each window of 2 × 2 is
written, and backward only its gradient is read. Which value it is, is computed again from x, as for the ReLU. Then `dy`
has the shape of the pooled output, which tells it from a gradient before pooling.
"""

import functools

import torch
from torch import Tensor

from labml_bn.norm.kernels import cpu_loops
from labml_bn.norm.kernels.cpu_loops import launch
from labml_bn.norm.kernels.layout import is_channels_last, memory_format

#: Fewer values than this are processed by one thread: to start the others would take longer.
ONE_THREAD = 16_384

_compiled = functools.cache(cpu_loops.compiled)


def is_supported(x: Tensor) -> bool:
    """Whether this kernel has loops for the device and dtype of x."""
    return x.is_cpu and x.dtype in cpu_loops.STORAGE


def can_pool(x: Tensor) -> bool:
    """Whether `forward`, `backward`, `inference` and those of the four operations that see y can also max-pool.

    Yes for images in channels_last: vector instructions compare values of several channels at once. With a single
    channel, two passes are faster.
    """
    return is_supported(x) and x.numel() > 0 and x.dim() == 4 and x.shape[1] > 1 and is_channels_last(x)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """As `reference.moments`."""
    x, threads, sizes = _dense(x)
    mean, var = new_vector(x), new_vector(x)
    launch(_compiled(x.dtype, "moments"), threads, sizes, x, mean, var=var)
    return mean, var


def normalize(
    x: Tensor,
    mean: Tensor,
    inv_std: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    relu: bool = False,
    pool: bool = False,
) -> Tensor:
    """As `reference.normalize`. With `pool`, max pooling follows."""
    x, threads, sizes = _dense(x, pool)
    vectors, y = _vectors(x, mean, inv_std, weight, bias), new_output(x, pool)
    launch(_loop("normalize", x, pool), threads, sizes, x, *vectors, relu=relu, out=y)
    return y


def inference(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    relu: bool = False,
    pool: bool = False,
) -> Tensor:
    """`normalize` with the variance instead of `inv_std`."""
    x, threads, sizes = _dense(x, pool)
    vectors, y = _vectors(x, mean, None, weight, bias), new_output(x, pool)
    launch(_loop("normalize", x, pool), threads, sizes, x, *vectors, relu=relu, out=y, var=_as(var, x), eps=eps)
    return y


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, relu: bool = False, pool: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`moments` and `normalize` at once. Returns (y, mean, var, inv_std)."""
    x, threads, sizes = _dense(x, pool)
    y, mean, var, inv_std = new_output(x, pool), new_vector(x), new_vector(x), new_vector(x)
    vectors = _vectors(x, mean, inv_std, weight, bias)
    launch(_loop("forward", x, pool), threads, sizes, x, *vectors, relu=relu, out=y, var=var, eps=eps)
    return y, mean, var, inv_std


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
    pool = dy.shape != x.shape
    x, threads, sizes = _dense(x, pool)
    vectors, sums = _vectors(x, mean, inv_std, weight, bias), (new_vector(x), new_vector(x))
    launch(_loop("gradient_sums", x, pool), threads, sizes, x, *vectors, relu=relu, dy=_like(dy, x), sums=sums)
    return sums


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
    pool = dy.shape != x.shape
    x, threads, sizes = _dense(x, pool)
    vectors, dx = _vectors(x, mean, inv_std, weight, bias), torch.empty_like(x)
    sums = _as(mean_dy, x), _as(mean_dy_xhat, x)
    loop = _loop("input_gradient", x, pool)
    launch(loop, threads, sizes, x, *vectors, relu=relu, dy=_like(dy, x), out=dx, sums=sums)
    return dx


def backward(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    inv_std: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    relu: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """`gradient_sums` and `input_gradient` at once. Returns (dx, sum of dy, sum of dy · x̂)."""
    pool = dy.shape != x.shape
    x, threads, sizes = _dense(x, pool)
    vectors, dx, sums = _vectors(x, mean, inv_std, weight, bias), torch.empty_like(x), (new_vector(x), new_vector(x))
    loop, m = _loop("backward", x, pool), x.numel() // x.shape[1]
    launch(loop, threads, sizes, x, *vectors, relu=relu, dy=_like(dy, x), out=dx, sums=sums, factor=1 / m)
    return dx, *sums


def _loop(name: str, x: Tensor, pool: bool) -> int:
    return _compiled(x.dtype, f"pooled_{name}" if pool else name)


def _dense(x: Tensor, pool: bool = False) -> tuple[Tensor, int, tuple[int, int, int, int, int, int, int]]:
    """x in a layout of the loops, the number of threads, and the sizes as `launch` takes them."""
    x = laid_out(x, pool)
    channels, height, width = x.shape[1], 0, 0
    if pool:
        n, positions, height, width = x.numel() // channels, 1, x.shape[2], x.shape[3]
    elif x.is_contiguous():
        n, positions = x.shape[0], x.numel() // max(1, x.shape[0] * channels)
    else:
        n, positions = x.numel() // channels, 1
    threads = torch.get_num_threads() if x.numel() > ONE_THREAD else 1
    return x, threads, (n, channels, positions, *_grid(n, channels, positions, threads), height, width)


def laid_out(x: Tensor, pool: bool) -> Tensor:
    """x, or a copy in a layout that the loops support.

    For max pooling that is channels_last only: a hook of autograd may have restored x in another layout.
    """
    if pool:
        return x.contiguous(memory_format=torch.channels_last)
    return x if x.is_contiguous() or is_channels_last(x) else x.contiguous(memory_format=memory_format(x))


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


def _like(dy: Tensor, x: Tensor) -> Tensor:
    """dy in the dtype and memory layout of x, or after max pooling in channels_last."""
    if dy.shape != x.shape:
        return dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
    if dy.dtype == x.dtype and dy.stride() == x.stride():
        return dy
    return torch.empty_like(x).copy_(dy)


def _vectors(
    x: Tensor, mean: Tensor, inv_std: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The per-channel vectors as the loops read them."""
    return _as(mean, x), _as(inv_std, x), _as(weight, x), _as(bias, x)


def _as(vector: Tensor | None, x: Tensor) -> Tensor | None:
    """The vector contiguous, and in the dtype of the arithmetic for x."""
    if vector is None or (vector.dtype == x.dtype == torch.float32 and vector.is_contiguous()):
        return vector
    return vector.to(_arithmetic(x)).contiguous()


def new_output(x: Tensor, pool: bool) -> Tensor:
    """What `normalize` returns for x, which is in a layout of the loops, with values of no meaning."""
    if not pool:
        return torch.empty_like(x)
    shape = (*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def new_vector(x: Tensor) -> Tensor:
    """A per-channel vector for x, with values of no meaning."""
    return torch.empty(x.shape[1], dtype=_arithmetic(x), device=x.device)


def _arithmetic(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
