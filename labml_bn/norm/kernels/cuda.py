r"""The four operations for NVIDIA GPUs, as Triton kernels. The equations are in `reference.py`.

All four are limited by memory bandwidth. Each reads its inputs once, converts them in registers, and applies a ReLU at
no extra cost.

Both memory layouts are addressed in the same way. Let $S$ be the number of adjacent values that belong to one channel:
height · width in contiguous images, 1 if the channels are innermost. The value $j$ of channel $c$ is at

$$\left( \lfloor j / S \rfloor \cdot \text{channels} + c \right) \cdot S + j \bmod S$$

A program (Triton's term for a thread block) processes tiles of ROWS values of each of COLUMNS channels. COLUMNS is 1
if the values of a channel are adjacent; if the channels are, COLUMNS of them fill a cache line.

A reduction has two stages: each program reduces its part of a channel, then the parts are reduced in a fixed order.
There are no atomic operations, so the results are the same to the last bit every time.
"""
# Triton has no type annotations, and the arguments of kernels have no Python types. As usual, names of arguments that
# are known when a kernel is compiled are in capitals.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# ruff: noqa: N803

import functools
import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from labml_bn.norm.kernels.layout import is_channels_last, memory_format
from labml_bn.norm.kernels.reference import widest
from labml_bn.norm.transforms import is_wrapped

#: Values per tile: 16 per thread, in float32 four loads of 16 bytes, which are all issued before the first result is
#: needed. With more, fewer programs would fit into the registers of a multiprocessor. Now 7 or 8 reductions do, and
#: while some of them compute, the others wait for about 60 KB; that much keeps the memory busy.
TILE, WARPS = 2048, 4
#: The largest number of programs in the first stage of a reduction. A large GPU runs about 1,000 at a time; with a few
#: times as many, its multiprocessors finish at about the same time. With more, the parts' results would cost time.
PROGRAMS = 4096
#: Up to this many tiles per channel, one program reduces them all: reading them takes less time than a second launch.
FEW_TILES = 4
#: In bytes. Memory is read in sectors. A warp reads fastest if it reads complete cache lines.
SECTOR, CACHE_LINE = 32, 128
#: From this number of values on, indices have 64 bits. This is half of what 32 bits can index, because the indices in
#: the last tile continue beyond the end.
LARGE = 2**30

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def is_supported(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels support the device, dtype and memory layout of x, and all tensors have memory of their own.

    The operations also accept other memory layouts, but they copy such tensors first.
    """
    return (
        (x.is_cuda or INTERPRETED)
        and x.dtype in DTYPES
        and x.dim() > 1
        and x.numel() > 0
        and (x.is_contiguous() or is_channels_last(x))
        and all(t is None or (t.device == x.device and is_plain(t)) for t in (x, *others))
    )


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean and the biased variance of each channel, in one launch for few values, otherwise in two."""
    x, plan = prepare(x)
    mean = x.new_empty(plan.channels, dtype=widest(x.dtype))
    var = torch.empty_like(mean)
    if plan.parts == 1:
        launch(moments_kernel, plan.reducers, x, mean, var, *plan.sizes, plan.steps, 1, COMPLETE=True, **plan.tile)
    else:
        means, m2s = mean.new_empty(2, plan.channels, plan.parts)
        arguments = (*plan.sizes, plan.steps, plan.parts)
        launch(moments_kernel, plan.reducers, x, means, m2s, *arguments, COMPLETE=False, **plan.tile)
        width = triton.next_power_of_2(plan.parts)
        launch(merge_kernel, plan.channels, x, means, m2s, mean, var, *arguments, PARTS=width, **plan.tile)
    return mean, var


def normalize(
    x: Tensor, mean: Tensor, inv_std: Tensor, weight: Tensor | None, bias: Tensor | None, relu: bool = False
) -> Tensor:
    """Normalize each channel, then scale and shift it. `relu` replaces negative values by 0; NaN stays NaN."""
    x, plan = prepare(x)
    y = torch.empty_like(x)
    vectors = dense(mean, inv_std, weight, bias)
    launch(normalize_kernel, plan.writers, x, *vectors, y, *plan.sizes, RELU=relu, **plan.tile)
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
    """Compute the per-channel gradient sums, in one launch for few values, otherwise in two.

    With `relu`, `dy` is the gradient after the ReLU.
    """
    x, plan = prepare(x)
    sums = x.new_empty(2, plan.channels, plan.parts, dtype=widest(x.dtype))
    vectors = dense(mean, inv_std, weight, bias)
    arguments = (*plan.sizes, plan.steps, plan.parts)
    launch(gradient_sums_kernel, plan.reducers, like(dy, x), x, *vectors, sums, *arguments, RELU=relu, **plan.tile)
    sum_dy, sum_dy_xhat = sums.sum(2) if plan.parts > 1 else sums.squeeze(2)
    return sum_dy, sum_dy_xhat


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
    """Compute the gradient of the input.

    `mean_dy` and `mean_dy_xhat` are None if the statistics are constants. With `relu`, `dy` is the gradient after it.
    """
    x, plan = prepare(x)
    dx = torch.empty_like(x)
    vectors = dense(mean, inv_std, weight, bias, mean_dy, mean_dy_xhat)
    launch(input_gradient_kernel, plan.writers, like(dy, x), x, *vectors, dx, *plan.sizes, RELU=relu, **plan.tile)
    return dx


# The kernels. In all of them, c are the program's channels, [1, COLUMNS], and j its values of each, [ROWS, 1]. g is the
# gradient before the ReLU, or dy without one. Triton compiles a kernel again for an integer argument of 1 or a multiple
# of 16, unless `do_not_specialize` contains it.


@triton.jit
def position(channels, COLUMNS: tl.constexpr, WIDE: tl.constexpr, REVERSED: tl.constexpr):
    """The channels of this program, and the index of its part of their values.

    Consecutive programs have different channels and the same part. These are adjacent in memory in both layouts, and
    programs that run at about the same time should read what is adjacent: they share sectors, which are then in cache.
    """
    program = tl.program_id(0)
    if REVERSED:
        program = tl.num_programs(0) - 1 - program
    blocks = tl.cdiv(channels, COLUMNS)
    block = program % blocks
    part = program // blocks
    if WIDE:  # all indices are computed from these two
        block = block.to(tl.int64)
        part = part.to(tl.int64)
    return (block * COLUMNS + tl.arange(0, COLUMNS))[None, :], part


@triton.jit
def address(j, c, channels, inner):
    """Where values j of channels c are, [ROWS, COLUMNS]."""
    return (j // inner * channels + c) * inner + j % inner


@triton.jit
def load_vector(vector, c, channels, default, dtype: tl.constexpr):
    """A per-channel vector at channels c, [1, COLUMNS]."""
    return tl.full(c.shape, default, dtype) if vector is None else tl.load(vector + c, c < channels, 0).to(dtype)


@triton.jit
def is_finite(x):
    """Whether values are neither NaN nor infinite."""
    return tl.abs(x) < float("inf")


@triton.jit
def load_pivot(x_pointer, c, channels, inner, dtype: tl.constexpr):
    """The first value of each of the channels c, [1, COLUMNS], or 0 if it is not finite."""
    pivot = tl.load(x_pointer + c * inner, c < channels, 0).to(dtype)
    return tl.where(is_finite(pivot), pivot, 0)


@triton.jit
def merge(n, mean, m2):
    """Merge the means and sums of squared differences of disjoint sets of n values, along dimension 0 (Chan et al.)."""
    merged = tl.sum(n * mean, 0) / tl.sum(n, 0)
    difference = mean - merged[None, :]
    return merged, tl.sum(m2 + n * difference * difference, 0)


@triton.jit(do_not_specialize=["images", "channel_units", "steps", "parts"])
def moments_kernel(
    x_pointer,
    mean_pointer,
    m2_pointer,
    images,
    channel_units,
    inner_units,
    steps,
    parts,
    COMPLETE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNEL_UNIT: tl.constexpr,
    INNER_UNIT: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The mean and the sum of squared differences of a part of each channel; the moments if the part is COMPLETE.

    The loop updates a mean and a sum of squared differences for every position in the tile (Welford's algorithm), so
    that it needs no communication between threads. They are merged at the end.

    All values are relative to the first value of their channel, the pivot. A running mean near 10⁶ would be rounded to
    a multiple of 1/16 in every step. The differences from the pivot are small, and subtracting it causes almost no
    rounding error. If the pivot is an outlier, nothing is lost: the algorithm does not rely on a mean near 0.

    An infinite value makes the running mean NaN, as it is subtracted from itself. Then the non-finite values alone are
    added up, which is their mean: infinite if they are equal. The variance stays NaN.
    """
    dtype = mean_pointer.dtype.element_ty
    channels = channel_units * CHANNEL_UNIT
    inner = inner_units * INNER_UNIT
    c, part = position(channels, COLUMNS, WIDE, False)
    count = tl.cast(images, part.dtype) * inner
    first = part * steps * ROWS + tl.arange(0, ROWS)[:, None]
    pivot = load_pivot(x_pointer, c, channels, inner, dtype)
    mean = tl.zeros([ROWS, COLUMNS], dtype)
    m2 = tl.zeros([ROWS, COLUMNS], dtype)
    for step in range(steps):
        j = first + step * ROWS
        inside = (j < count) & (c < channels)
        x = tl.load(x_pointer + address(j, c, channels, inner), inside, 0).to(dtype) - pivot
        difference = tl.where(inside, x - mean, 0)
        mean += difference * (1 / tl.cast(step + 1, dtype))
        m2 += difference * (x - mean)
    n = tl.minimum(tl.maximum((count - first + ROWS - 1) // ROWS, 0), steps).to(dtype)
    mean, m2 = merge(n, mean, m2)
    mean = mean[None, :]
    m2 = m2[None, :]
    if tl.max(tl.max((mean != mean).to(tl.int32), 1), 0) > 0:
        total = tl.zeros([ROWS, COLUMNS], dtype)
        for step in range(steps):
            j = first + step * ROWS
            inside = (j < count) & (c < channels)
            x = tl.load(x_pointer + address(j, c, channels, inner), inside, 0).to(dtype)
            total += tl.where(is_finite(x), 0, x)
        total = tl.sum(total, 0)[None, :]
        mean = tl.where(total == 0, mean, total)
    if COMPLETE:
        mean += pivot
        m2 /= count
    tl.store(mean_pointer + c * parts + part, mean, c < channels)
    tl.store(m2_pointer + c * parts + part, m2, c < channels)


@triton.jit(do_not_specialize=["images", "channel_units", "steps", "parts"])
def merge_kernel(
    x_pointer,
    means_pointer,
    m2s_pointer,
    mean_pointer,
    var_pointer,
    images,
    channel_units,
    inner_units,
    steps,
    parts,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNEL_UNIT: tl.constexpr,
    INNER_UNIT: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The moments of one channel from those of its parts."""
    dtype = mean_pointer.dtype.element_ty
    channels = channel_units * CHANNEL_UNIT
    inner = inner_units * INNER_UNIT
    c, _ = position(channels, 1, WIDE, False)
    count = tl.cast(images, c.dtype) * inner
    part = tl.arange(0, PARTS)[:, None]
    n = tl.minimum(tl.maximum(count - part.to(c.dtype) * steps * ROWS, 0), steps * ROWS).to(dtype)
    means = tl.load(means_pointer + c * parts + part, part < parts, 0)
    m2s = tl.load(m2s_pointer + c * parts + part, part < parts, 0)
    mean, m2 = merge(n, means, m2s)
    pivot = load_pivot(x_pointer, c, channels, inner, dtype)
    tl.store(mean_pointer + c, mean[None, :] + pivot)
    tl.store(var_pointer + c, m2[None, :] / count)


@triton.jit(do_not_specialize=["images", "channel_units"])
def normalize_kernel(
    x_pointer,
    mean_pointer,
    inv_std_pointer,
    weight_pointer,
    bias_pointer,
    y_pointer,
    images,
    channel_units,
    inner_units,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNEL_UNIT: tl.constexpr,
    INNER_UNIT: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One tile of y. The last tiles are processed first: `moments` has just read them, so they are in cache."""
    dtype = mean_pointer.dtype.element_ty
    channels = channel_units * CHANNEL_UNIT
    inner = inner_units * INNER_UNIT
    c, tile = position(channels, COLUMNS, WIDE, True)
    j = tile * ROWS + tl.arange(0, ROWS)[:, None]
    inside = (j < tl.cast(images, tile.dtype) * inner) & (c < channels)
    offset = address(j, c, channels, inner)
    mean = load_vector(mean_pointer, c, channels, 0, dtype)
    scale = load_vector(weight_pointer, c, channels, 1, dtype) * load_vector(inv_std_pointer, c, channels, 0, dtype)
    bias = load_vector(bias_pointer, c, channels, 0, dtype)
    x = tl.load(x_pointer + offset, inside, 0)
    y = affine(x, mean, scale, bias)
    if RELU:
        y = tl.where(y <= 0, 0, y)
    tl.store(y_pointer + offset, y, inside)


@triton.jit
def affine(x, mean, scale, bias):
    """y before the ReLU, rounded to the precision of x.

    The backward kernels compute y again, and its sign must be that of the forward pass. So the multiplication and the
    addition are explicitly one operation with one rounding. The compiler could choose differently in each kernel.
    """
    centered = x.to(mean.dtype) - mean
    scale, bias = tl.broadcast_to(scale, centered.shape), tl.broadcast_to(bias, centered.shape)
    return tl.fma(centered, scale, bias).to(x.dtype).to(mean.dtype)


@triton.jit(do_not_specialize=["images", "channel_units", "steps", "parts"])
def gradient_sums_kernel(
    dy_pointer,
    x_pointer,
    mean_pointer,
    inv_std_pointer,
    weight_pointer,
    bias_pointer,
    sums_pointer,
    images,
    channel_units,
    inner_units,
    steps,
    parts,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNEL_UNIT: tl.constexpr,
    INNER_UNIT: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The sums of g and of g · x̂ over a part of each channel."""
    dtype = mean_pointer.dtype.element_ty
    channels = channel_units * CHANNEL_UNIT
    inner = inner_units * INNER_UNIT
    c, part = position(channels, COLUMNS, WIDE, False)
    count = tl.cast(images, part.dtype) * inner
    first = part * steps * ROWS + tl.arange(0, ROWS)[:, None]
    mean = load_vector(mean_pointer, c, channels, 0, dtype)
    inv_std = load_vector(inv_std_pointer, c, channels, 0, dtype)
    scale = load_vector(weight_pointer, c, channels, 1, dtype) * inv_std
    bias = load_vector(bias_pointer, c, channels, 0, dtype)
    sum_g = tl.zeros([ROWS, COLUMNS], dtype)
    sum_g_centered = tl.zeros([ROWS, COLUMNS], dtype)
    for step in range(steps):
        j = first + step * ROWS
        inside = (j < count) & (c < channels)
        offset = address(j, c, channels, inner)
        x = tl.load(x_pointer + offset, inside, 0)
        g = tl.load(dy_pointer + offset, inside, 0).to(dtype)
        if RELU:
            g = tl.where(affine(x, mean, scale, bias) > 0, g, 0)
        sum_g += g
        sum_g_centered += g * (x.to(dtype) - mean)
    target = sums_pointer + c * parts + part
    tl.store(target, tl.sum(sum_g, 0)[None, :], c < channels)
    tl.store(target + channels * parts, tl.sum(sum_g_centered, 0)[None, :] * inv_std, c < channels)


@triton.jit(do_not_specialize=["images", "channel_units"])
def input_gradient_kernel(
    dy_pointer,
    x_pointer,
    mean_pointer,
    inv_std_pointer,
    weight_pointer,
    bias_pointer,
    mean_dy_pointer,
    mean_dy_xhat_pointer,
    dx_pointer,
    images,
    channel_units,
    inner_units,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNEL_UNIT: tl.constexpr,
    INNER_UNIT: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One tile of dx. The last tiles are processed first: `gradient_sums` has just read them, so they are in cache."""
    dtype = mean_pointer.dtype.element_ty
    channels = channel_units * CHANNEL_UNIT
    inner = inner_units * INNER_UNIT
    c, tile = position(channels, COLUMNS, WIDE, True)
    j = tile * ROWS + tl.arange(0, ROWS)[:, None]
    inside = (j < tl.cast(images, tile.dtype) * inner) & (c < channels)
    offset = address(j, c, channels, inner)
    mean = load_vector(mean_pointer, c, channels, 0, dtype)
    inv_std = load_vector(inv_std_pointer, c, channels, 0, dtype)
    scale = load_vector(weight_pointer, c, channels, 1, dtype) * inv_std
    x = tl.load(x_pointer + offset, inside, 0)
    g = tl.load(dy_pointer + offset, inside, 0).to(dtype)
    if RELU:
        bias = load_vector(bias_pointer, c, channels, 0, dtype)
        g = tl.where(affine(x, mean, scale, bias) > 0, g, 0)
    if mean_dy_pointer is not None:
        slope = load_vector(mean_dy_xhat_pointer, c, channels, 0, dtype) * inv_std
        g = g - load_vector(mean_dy_pointer, c, channels, 0, dtype) - (x.to(dtype) - mean) * slope
    tl.store(dx_pointer + offset, scale * g, inside)


#: With TRITON_INTERPRET=1 in the environment at import, Triton's interpreter runs the kernels, also on CPU tensors.
INTERPRETED = not isinstance(normalize_kernel, triton.JITFunction)


# The host's side. It must be fast, too: small inputs take the GPU less time than a launch takes the host.


class Plan(NamedTuple):
    """How programs share the work for one shape, layout and dtype."""

    channels: int
    sizes: tuple[int, int, int]  #: the arguments images, channel_units and inner_units of every kernel
    steps: int  #: tiles per program of a reduction
    parts: int  #: programs per channel of a reduction
    reducers: int  #: programs of a reduction
    writers: int  #: programs of a kernel that writes one tile per program
    tile: dict[str, Any]  #: the compile-time arguments of every kernel


@functools.lru_cache(maxsize=1024)
def make_plan(images: int, channels: int, inner: int, itemsize: int) -> Plan:
    """The plan for values that are stored as [images, channels, inner].

    The compiler combines loads only if it knows that all rows start at multiples of 16 bytes. Triton tells it which
    sizes are multiples of 16, but 14 · 14 is not, although 4 divides it. So it also gets the power of two in each size.
    """
    count = images * inner
    columns = 1 if inner * itemsize >= SECTOR else min(CACHE_LINE // itemsize, triton.next_power_of_2(channels))
    rows = min(TILE // columns, triton.next_power_of_2(count))
    blocks, tiles = ceil_div(channels, columns), ceil_div(count, rows)
    steps = tiles if tiles <= FEW_TILES else min(tiles, ceil_div(tiles * blocks, PROGRAMS))
    parts = ceil_div(tiles, steps)
    channel_unit, inner_unit = math.gcd(channels, 16), math.gcd(inner, 16)
    return Plan(
        channels,
        (images, channels // channel_unit, inner // inner_unit),
        steps,
        parts,
        reducers=blocks * parts,
        writers=blocks * tiles,
        tile={
            "ROWS": rows,
            "COLUMNS": columns,
            "CHANNEL_UNIT": channel_unit,
            "INNER_UNIT": inner_unit,
            "WIDE": count * channels >= LARGE,
        },
    )


def prepare(x: Tensor) -> tuple[Tensor, Plan]:
    """Return x, copied if it has neither of the two layouts, and its plan."""
    images, channels = x.shape[:2]
    count = x.numel() // channels
    if not x.is_contiguous() and not is_channels_last(x):
        x = x.contiguous(memory_format=memory_format(x))
    if x.is_contiguous():
        return x, make_plan(images, channels, count // images, x.element_size())
    return x, make_plan(count, channels, 1, x.element_size())


def like(dy: Tensor, x: Tensor) -> Tensor:
    """Return dy, copied if its layout is not that of x."""
    if dy.stride() == x.stride():
        return dy
    return dy.contiguous(memory_format=memory_format(x))


def dense(*vectors: Tensor | None) -> list[Tensor | None]:
    """Return the per-channel vectors, copied if their values are not adjacent, for example after `expand`."""
    return [None if vector is None else vector.contiguous() for vector in vectors]


def is_plain(x: Tensor) -> bool:
    """Whether x is neither a tensor subclass nor a wrapper of `torch.func`."""
    return type(x) in (Tensor, torch.nn.Parameter) and not is_wrapped(x)


def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Start a kernel on the device of its first argument.

    The default of `enable_fp_fusion` depends on Triton's version. Here a·b + c may become one operation.
    """
    with torch.cuda.device_of(arguments[0]):
        kernel[(programs,)](*arguments, **constants, num_warps=WARPS, enable_fp_fusion=True)


def ceil_div(a: int, b: int) -> int:
    """The quotient a / b, rounded up."""
    return -(-a // b)
