"""The loops of `cpu.py`, compiled by Numba and run by the threads of PyTorch.

An input of shape [batch, channels, *] is N·C·S values, value (n, c, s) at index (n·C + c)·S + s. That covers both
memory layouts: in a contiguous tensor S is the number of positions; in one with the channels innermost (two dimensions,
or channels_last) S is 1, and N counts batch · positions.

**Threads.** Numba's own thread pool would compete with PyTorch's for the cores: idle threads of both spin while they
wait for work. So the loops run on the threads that PyTorch has: `GOMP_parallel` of its OpenMP library calls a compiled
function once per thread, with a pointer to the arguments. The work is a grid of `rows` × `columns` tiles, a range of n
by a range of channels each; at least one of the two numbers is 1. Thread t of T computes the tiles t, t + T, t + 2T, …:
there may be fewer threads than asked for, if a limit or dynamic adjustment is set in the environment. Threads wait for
each other only if there are several rows, whose sums must be merged. Tiles of a few channels are independent.

**Accuracy.** Sums are accumulated in float64; those of the backward pass after at most a block of values per lane, in
the dtype of the arithmetic. The variance is never computed as E[x²] − E[x]²: within a block of
values it is gathered from differences to the block's first value, and blocks are merged by the formula of Chan, Golub &
LeVeque 1979. As the first value is one of the data, the squared difference of the mean from it is at most the block's
size times its variance, so at most that factor of float64's precision is lost.
"""

import ctypes
import struct
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from torch import Tensor

from labml_bn.norm.kernels import openmp

#: PyTorch's types as Numba reads them. Half precision is read as its bits, in integers that differ by their sign.
STORAGE = {
    torch.float32: types.float32,
    torch.float64: types.float64,
    torch.bfloat16: types.uint16,
    torch.float16: types.int16,
}

#: Values of a block: per lane with the channels innermost, where each value of a run is a lane; else of all lanes.
BLOCK = 32
LONG_BLOCK = 1024

_openmp = openmp.find()
if _openmp is None:
    raise ImportError("this build of PyTorch does not use GNU OpenMP")
_parallel = _openmp.GOMP_parallel
_parallel.argtypes, _parallel.restype = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint], None
for _name in ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier"):
    # Found by name, so that compiled code can be cached.
    _address: Any = ctypes.cast(getattr(_openmp, _name), ctypes.c_void_p).value
    llvmlite.binding.add_symbol(_name, _address)
# Numba would import its own functions, which takes 0.2 s, when the first loop is loaded: in the first training step.
cpu_target.target_context.refresh()
_thread_number = types.ExternalFunction("omp_get_thread_num", types.int32())
_thread_count = types.ExternalFunction("omp_get_num_threads", types.int32())
_barrier = types.ExternalFunction("GOMP_barrier", types.void())

#: The arguments of a loop, each of 8 bytes: sizes, addresses (0 for None), and two numbers in float64.
ARGUMENTS = 21
N, C, S, ROWS, COLUMNS, HEIGHT, WIDTH, RELU, *_ADDRESSES, EPS, FACTOR = range(ARGUMENTS)
X, DY, OUT, MEAN, VAR, INV_STD, WEIGHT, BIAS, SUM_DY, SUM_DY_XHAT, PARTS = _ADDRESSES
_pack = struct.Struct("19q2d").pack


def launch(
    loop: int,
    threads: int,
    sizes: tuple[int, int, int, int, int, int, int],
    x: Tensor,
    mean: Tensor | None,
    inv_std: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    relu: bool = False,
    dy: Tensor | None = None,
    out: Tensor | None = None,
    var: Tensor | None = None,
    sums: tuple[Tensor | None, Tensor | None] = (None, None),
    eps: float = 0.0,
    factor: float = 1.0,
) -> None:
    """Call the compiled loop at this address on so many of PyTorch's threads.

    `sizes` are N, C, S, rows, columns, and for the loops with max pooling the height and width of x. All tensors are
    dense: x, dy and out in the same dtype and memory layout, the per-channel vectors in the dtype of the arithmetic.
    `sums` are the sums of dy and of dy · x̂, and `factor` is what makes them means.
    """
    # Two sums per channel and row of tiles.
    parts = torch.empty(2 * sizes[1] * sizes[3], dtype=torch.float64, device=x.device)
    tensors = (x, dy, out, mean, var, inv_std, weight, bias, *sums, parts)
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    _parallel(loop, _pack(*sizes, relu, *addresses, eps, factor), threads, 0)


def compiled(dtype: torch.dtype, name: str) -> int:
    """The address of a loop for inputs of this dtype. Compiled when first used, then cached on the disk."""
    signature = types.void(types.CPointer(STORAGE[dtype]))
    try:
        loop = numba.cfunc(signature, cache=True)(_LOOPS[name])
    except RuntimeError:  # neither beside this file nor in the user's home can a file be written
        loop = numba.cfunc(signature)(_LOOPS[name])
    _kept.append(loop)
    return int(loop.address)


_kept: list[Any] = []  # the code lives as long as these objects


# What follows is compiled. `data` is a pointer to the arguments; its type is that of the input.


def _arithmetic(dtype: Any) -> Any:
    return types.float64 if dtype == types.float64 else types.float32


def _cast(typing_context: Any, address: Any, target: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, pointer = arguments[0], context.get_value_type(types.CPointer(target))
        is_pointer = isinstance(value.type, ir.PointerType)
        return builder.bitcast(value, pointer) if is_pointer else builder.inttoptr(value, pointer)

    return codegen


@intrinsic
def _integers(typing_context: Any, data: Any) -> Any:
    """The arguments."""
    return types.CPointer(types.int64)(data), _cast(typing_context, data, types.int64)


@intrinsic
def _values(typing_context: Any, address: Any, data: Any) -> Any:
    """A pointer to values in the dtype of the input."""
    return types.CPointer(data.dtype)(address, data), _cast(typing_context, address, data.dtype)


@intrinsic
def _vector(typing_context: Any, address: Any, data: Any) -> Any:
    """A pointer to values in the dtype of the arithmetic."""
    target = _arithmetic(data.dtype)
    return types.CPointer(target)(address, data), _cast(typing_context, address, target)


@intrinsic
def _sums(typing_context: Any, address: Any) -> Any:
    """A pointer to values in float64."""
    return types.CPointer(types.float64)(address), _cast(typing_context, address, types.float64)


@numba.njit(inline="always")
def _numbers(data: Any) -> Any:
    """The arguments, of which some are numbers in float64."""
    return carray(_sums(data), ARGUMENTS)


@intrinsic
def _wide(typing_context: Any, value: Any) -> Any:
    """A value of the input in the dtype of the arithmetic."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (bits,) = arguments
        if value == types.int16:
            return builder.fpext(builder.bitcast(bits, ir.HalfType()), ir.FloatType())
        if value == types.uint16:  # bfloat16 is the upper half of a float32
            upper = builder.shl(builder.zext(bits, ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
            return builder.bitcast(upper, ir.FloatType())
        return bits

    return _arithmetic(value)(value), codegen


@intrinsic
def _narrow(typing_context: Any, value: Any, like: Any) -> Any:
    """A result in the dtype of the input, of which `like` is a value; rounded to the nearest, ties to even."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result, _ = arguments
        if like == types.int16:
            return builder.bitcast(builder.fptrunc(result, ir.HalfType()), ir.IntType(16))
        if like == types.uint16:
            i32 = ir.IntType(32)
            bits, sixteen = builder.bitcast(result, i32), ir.Constant(i32, 16)
            odd = builder.and_(builder.lshr(bits, sixteen), ir.Constant(i32, 1))
            rounded = builder.lshr(builder.add(builder.add(bits, ir.Constant(i32, 0x7FFF)), odd), sixteen)
            is_nan = builder.fcmp_unordered("uno", result, result)
            return builder.trunc(builder.select(is_nan, ir.Constant(i32, 0x7FC0), rounded), ir.IntType(16))
        return result

    return like(value, like), codegen


@numba.njit(inline="always")
def _share(size: int, parts: int, number: int, multiple: int) -> tuple[int, int]:
    """The bounds of one of equal parts of range(size), between multiples of `multiple`."""
    blocks = (size + multiple - 1) // multiple
    return min(blocks * number // parts * multiple, size), min(blocks * (number + 1) // parts * multiple, size)


@numba.njit(inline="always")
def _tiles(data: Any) -> Any:
    """The numbers of the tiles that this thread computes."""
    a = carray(_integers(data), ARGUMENTS)
    return range(_thread_number(), a[ROWS] * a[COLUMNS], _thread_count())


@numba.njit(inline="always")
def _bounds(data: Any, number: int) -> tuple[int, int, int, int]:
    """The bounds of a tile, n0, n1, c0, c1.

    With the channels innermost, tiles are cut at multiples of 16, so that no two threads write to one cache line.
    """
    a = carray(_integers(data), ARGUMENTS)
    n0, n1 = _share(a[N], a[ROWS], number // a[COLUMNS], 1)
    c0, c1 = _share(a[C], a[COLUMNS], number % a[COLUMNS], 16 if a[S] == 1 else 1)
    return n0, n1, c0, c1


# Contraction to fused multiply-add is the same in all loops, so the sign of y is found again in the backward pass. Sums
# may be reordered, which lets them be vectorized. NaN and infinity are respected.
_elementwise = numba.njit(fastmath={"contract", "nsz"}, error_model="numpy")
_summing = numba.njit(fastmath={"contract", "nsz", "reassoc"}, error_model="numpy")


@numba.njit(inline="always")
def _run_length(data: Any, c0: int, c1: int) -> int:
    """With the channels innermost, the loops process so many values at once.

    In a tile of all channels these are several rows. Vector instructions take 16 values, so a run is a multiple of 16;
    and it has at least 256, which outweighs what the start of an inner loop costs.
    """
    if carray(_integers(data), ARGUMENTS)[COLUMNS] > 1:
        return c1 - c0
    length = c1 - c0
    while length % 16 or length < 256:
        length *= 2
    return length


@numba.njit(inline="always")
def _along(data: Any, address: int, c0: int, c1: int, length: int, default: float) -> Any:
    """The values of a per-channel vector for channels c0 to c1, repeated along a run; `default` if it is None."""
    vector = carray(_vector(address, data), c1)
    result = np.empty(length, vector.dtype)
    if address == 0:
        result[:] = default
    else:
        for row in range(0, length, c1 - c0):
            result[row : row + c1 - c0] = vector[c0:c1]
    return result


@_elementwise
def _affine(data: Any, c0: int, c1: int, length: int) -> Any:
    """Mean, scale and bias along a run: y = (x − mean) · scale + bias. Without inv_std it is computed from var."""
    a = carray(_integers(data), ARGUMENTS)
    mean, bias = _along(data, a[MEAN], c0, c1, length, 0.0), _along(data, a[BIAS], c0, c1, length, 0.0)
    scale = _along(data, a[INV_STD], c0, c1, length, 1.0)
    if a[INV_STD] == 0:
        var, eps = _along(data, a[VAR], c0, c1, length, 1.0), _numbers(data)[EPS]
        for i in range(length):
            scale[i] = 1 / np.sqrt(var[i] + eps)
    scale *= _along(data, a[WEIGHT], c0, c1, length, 1.0)
    return mean, scale, bias


@_elementwise
def _before_relu(dy: Any, centered: Any, scale: Any, bias: Any, relu: bool, zero: Any) -> Any:
    """dy, or zero where the ReLU has cut y off."""
    return zero if relu and not centered * scale + bias > zero else dy


@numba.njit
def _store(data: Any, number: int, first: Any, second: Any) -> None:
    """Write two sums per channel of a tile to the place of its row. They are gathered in memory of its own thread."""
    a = carray(_integers(data), ARGUMENTS)
    part = carray(_sums(a[PARTS]), a[ROWS] * 2 * a[C])[number // a[COLUMNS] * 2 * a[C] :]
    _, _, c0, c1 = _bounds(data, number)
    part[c0:c1] = first
    part[a[C] + c0 : a[C] + c1] = second


@_summing
def _tile_moments(data: Any, number: int) -> None:
    """Per row of tiles and channel: the mean, and the sum of squared differences from it."""
    a = carray(_integers(data), ARGUMENTS)
    channels, positions = a[C], a[S]
    x = carray(_values(a[X], data), a[N] * channels * positions)
    like = carray(_vector(a[X], data), 1)
    n0, n1, c0, c1 = _bounds(data, number)
    mean, squares = np.zeros(c1 - c0), np.zeros(c1 - c0)
    count = 0.0
    if positions == 1:
        length = _run_length(data, c0, c1)
        step = channels if a[COLUMNS] > 1 else length
        first, block1, block2 = np.empty(length, like.dtype), np.empty(length), np.empty(length)
        end = (n1 - 1) * channels + c1
        for begin in range(n0 * channels + c0, end, BLOCK * step):
            stop = min(begin + BLOCK * step, end)
            for row in range(0, length, c1 - c0):
                for c in range(c1 - c0):
                    first[row + c] = _wide(x[begin + c])
            block1[:] = 0
            block2[:] = 0
            for start in range(begin, stop, step):
                run = x[start : min(start + length, end)]
                for i in range(len(run)):
                    difference = np.float64(_wide(run[i]) - first[i])
                    block1[i] += difference
                    block2[i] += difference * difference
            added = float((stop - begin + channels - 1) // channels)
            for c in range(c1 - c0):
                sum1, sum2 = 0.0, 0.0
                for i in range(c, length, channels):
                    sum1 += block1[i]
                    sum2 += block2[i]
                delta = first[c] + sum1 / added - mean[c]
                squares[c] += sum2 - sum1 * sum1 / added + delta * delta * (count * added / (count + added))
                mean[c] += delta * (added / (count + added))
            count += added
        _store(data, number, mean, squares)
        return
    images = max(1, LONG_BLOCK // positions)
    for n in range(n0, n1, images):
        last = min(n + images, n1)
        for s0 in range(0, positions, LONG_BLOCK):
            s1 = min(s0 + LONG_BLOCK, positions)
            added = float((last - n) * (s1 - s0))
            for c in range(c1 - c0):
                start = _wide(x[(n * channels + c0 + c) * positions + s0])
                sum1, sum2 = 0.0, 0.0
                for image in range(n, last):
                    begin = (image * channels + c0 + c) * positions
                    run = x[begin + s0 : begin + s1]
                    for i in range(len(run)):
                        difference = np.float64(_wide(run[i]) - start)
                        sum1 += difference
                        sum2 += difference * difference
                delta = start + sum1 / added - mean[c]
                squares[c] += sum2 - sum1 * sum1 / added + delta * delta * (count * added / (count + added))
                mean[c] += delta * (added / (count + added))
            count += added
    _store(data, number, mean, squares)


@_summing
def _merge_moments(data: Any, c0: int, c1: int) -> None:
    """The rows of tiles merged, for channels c0 to c1: mean, variance, and 1 / sqrt(variance + eps)."""
    a = carray(_integers(data), ARGUMENTS)
    channels, rows, positions = a[C], a[ROWS], a[S]
    parts = carray(_sums(a[PARTS]), rows * 2 * channels)
    mean, var = carray(_vector(a[MEAN], data), channels), carray(_vector(a[VAR], data), channels)
    inv_std, eps = carray(_vector(a[INV_STD], data), channels), _numbers(data)[EPS]
    for c in range(c0, c1):
        merged, squares = parts[c], parts[channels + c]
        count = float(_share(a[N], rows, 0, 1)[1] * positions)
        for row in range(1, rows):
            n0, n1 = _share(a[N], rows, row, 1)
            added = float((n1 - n0) * positions)
            delta = parts[row * 2 * channels + c] - merged
            squares += parts[row * 2 * channels + channels + c] + delta * delta * (count * added / (count + added))
            merged += delta * (added / (count + added))
            count += added
        mean[c], var[c] = merged, squares / count
        if not np.isfinite(squares):
            mean[c], var[c] = _moments_of_extremes(data, c)
        if a[INV_STD] != 0:
            inv_std[c] = 1 / np.sqrt(var[c] + eps)


@numba.njit
def _moments_of_extremes(data: Any, c: int) -> tuple[float, float]:
    """The mean and the variance of a channel with values that are not finite, or so large that their squares are not.

    Above, infinity is subtracted from itself, or a difference overflows. The mean of infinite values is infinite if all
    have the same sign, and otherwise NaN. The variance is then NaN.
    """
    a = carray(_integers(data), ARGUMENTS)
    x = carray(_values(a[X], data), a[N] * a[C] * a[S])
    count = float(a[N] * a[S])
    mean, infinite, var = 0.0, 0.0, 0.0
    for n in range(a[N]):
        start = (n * a[C] + c) * a[S]
        for i in range(start, start + a[S]):
            value = np.float64(_wide(x[i]))
            if np.isfinite(value):
                mean += value / count
            else:
                infinite += value
    if infinite != 0:
        return infinite, np.nan
    for n in range(a[N]):
        start = (n * a[C] + c) * a[S]
        for i in range(start, start + a[S]):
            difference = np.float64(_wide(x[i])) - mean
            var += difference * (difference / count)
    return mean, var


@_elementwise
def _tile_normalized(data: Any, number: int) -> None:
    """y, with or without the ReLU."""
    a = carray(_integers(data), ARGUMENTS)
    channels, positions, size = a[C], a[S], a[N] * a[C] * a[S]
    x, y = carray(_values(a[X], data), size), carray(_values(a[OUT], data), size)
    n0, n1, c0, c1 = _bounds(data, number)
    length = _run_length(data, c0, c1) if positions == 1 else c1 - c0
    mean, scale, bias = _affine(data, c0, c1, length)
    low = mean.dtype.type(0 if a[RELU] else -np.inf)
    if positions == 1:
        end = (n1 - 1) * channels + c1
        for start in range(n0 * channels + c0, end, channels if a[COLUMNS] > 1 else length):
            xs, ys = x[start : min(start + length, end)], y[start : min(start + length, end)]
            for i in range(len(xs)):
                value = (_wide(xs[i]) - mean[i]) * scale[i] + bias[i]
                ys[i] = _narrow(low if value < low else value, xs[i])
        return
    for n in range(n0, n1):
        for c in range(c0, c1):
            start = (n * channels + c) * positions
            xs, ys = x[start : start + positions], y[start : start + positions]
            m, k, b = mean[c - c0], scale[c - c0], bias[c - c0]
            for i in range(len(xs)):
                value = (_wide(xs[i]) - m) * k + b
                ys[i] = _narrow(low if value < low else value, xs[i])


@_summing
def _tile_gradient_sums(data: Any, number: int) -> None:
    """Per row of tiles and channel: the sums of g and of g · (x − mean), where g is dy before the ReLU, if any."""
    a = carray(_integers(data), ARGUMENTS)
    channels, positions, size, relu = a[C], a[S], a[N] * a[C] * a[S], a[RELU] != 0
    x, dy = carray(_values(a[X], data), size), carray(_values(a[DY], data), size)
    n0, n1, c0, c1 = _bounds(data, number)
    sum1, sum2 = np.zeros(c1 - c0), np.zeros(c1 - c0)
    length = _run_length(data, c0, c1) if positions == 1 else c1 - c0
    mean, scale, bias = _affine(data, c0, c1, length)
    zero = mean.dtype.type(0)
    if positions == 1:
        block1, block2 = np.empty(length, mean.dtype), np.empty(length, mean.dtype)
        step = channels if a[COLUMNS] > 1 else length
        end = (n1 - 1) * channels + c1
        for begin in range(n0 * channels + c0, end, BLOCK * step):
            block1[:] = 0
            block2[:] = 0
            for start in range(begin, min(begin + BLOCK * step, end), step):
                xs, gs = x[start : min(start + length, end)], dy[start : min(start + length, end)]
                for i in range(len(xs)):
                    centered = _wide(xs[i]) - mean[i]
                    g = _before_relu(_wide(gs[i]), centered, scale[i], bias[i], relu, zero)
                    block1[i] += g
                    block2[i] += g * centered
            for row in range(0, length, c1 - c0):
                for c in range(c1 - c0):
                    sum1[c] += block1[row + c]
                    sum2[c] += block2[row + c]
        _store(data, number, sum1, sum2)
        return
    for n in range(n0, n1):
        for c in range(c1 - c0):
            m, k, b = mean[c], scale[c], bias[c]
            for s0 in range(0, positions, LONG_BLOCK):
                start = (n * channels + c0 + c) * positions + s0
                stop = start + min(LONG_BLOCK, positions - s0)
                xs, gs = x[start:stop], dy[start:stop]
                block_sum1, block_sum2 = zero, zero
                for i in range(len(xs)):
                    centered = _wide(xs[i]) - m
                    g = _before_relu(_wide(gs[i]), centered, k, b, relu, zero)
                    block_sum1 += g
                    block_sum2 += g * centered
                sum1[c] += block_sum1
                sum2[c] += block_sum2
    _store(data, number, sum1, sum2)


@_summing
def _merge_gradient_sums(data: Any, c0: int, c1: int) -> None:
    """The rows of tiles merged, for channels c0 to c1: the sums of g and of g · x̂."""
    a = carray(_integers(data), ARGUMENTS)
    channels = a[C]
    parts = carray(_sums(a[PARTS]), a[ROWS] * 2 * channels)
    inv_std = carray(_vector(a[INV_STD], data), channels)
    sum_dy = carray(_vector(a[SUM_DY], data), channels)
    sum_dy_xhat = carray(_vector(a[SUM_DY_XHAT], data), channels)
    for c in range(c0, c1):
        sum1, sum2 = 0.0, 0.0
        for row in range(a[ROWS]):
            sum1 += parts[row * 2 * channels + c]
            sum2 += parts[row * 2 * channels + channels + c]
        sum_dy[c], sum_dy_xhat[c] = sum1, sum2 * inv_std[c]


@_elementwise
def _shift_and_slope(data: Any, c0: int, c1: int, scale: Any) -> Any:
    """Shift and slope along a run, for `_tile_input_gradient`."""
    a, factor, length = carray(_integers(data), ARGUMENTS), _numbers(data)[FACTOR], len(scale)
    shift = _along(data, a[SUM_DY], c0, c1, length, 0.0)
    slope = _along(data, a[SUM_DY_XHAT], c0, c1, length, 0.0)
    inv_std = _along(data, a[INV_STD], c0, c1, length, 1.0)
    for i in range(length):
        shift[i] = scale[i] * (shift[i] * factor)
        slope[i] = scale[i] * inv_std[i] * (slope[i] * factor)
    return shift, slope


@_elementwise
def _tile_input_gradient(data: Any, number: int) -> None:
    """dx = scale · g − shift − slope · (x − mean): the equation of the reference, its constants merged.

    The gradient sums times `factor` are the means over the batch. If they are None, the statistics are constants, and
    dx = scale · g.
    """
    a = carray(_integers(data), ARGUMENTS)
    channels, positions, size = a[C], a[S], a[N] * a[C] * a[S]
    relu, constant = a[RELU] != 0, a[SUM_DY] == 0
    x, dy = carray(_values(a[X], data), size), carray(_values(a[DY], data), size)
    dx = carray(_values(a[OUT], data), size)
    n0, n1, c0, c1 = _bounds(data, number)
    length = _run_length(data, c0, c1) if positions == 1 else c1 - c0
    mean, scale, bias = _affine(data, c0, c1, length)
    shift, slope = _shift_and_slope(data, c0, c1, scale)
    zero = mean.dtype.type(0)
    if positions == 1:
        end = (n1 - 1) * channels + c1
        for start in range(n0 * channels + c0, end, channels if a[COLUMNS] > 1 else length):
            stop = min(start + length, end)
            xs, gs, out = x[start:stop], dy[start:stop], dx[start:stop]
            if constant:
                for i in range(len(xs)):
                    g = _before_relu(_wide(gs[i]), _wide(xs[i]) - mean[i], scale[i], bias[i], relu, zero)
                    out[i] = _narrow(g * scale[i], xs[i])
            else:
                for i in range(len(xs)):
                    centered = _wide(xs[i]) - mean[i]
                    g = _before_relu(_wide(gs[i]), centered, scale[i], bias[i], relu, zero)
                    out[i] = _narrow(g * scale[i] - shift[i] - centered * slope[i], xs[i])
        return
    for n in range(n0, n1):
        for c in range(c0, c1):
            start = (n * channels + c) * positions
            xs, gs, out = x[start : start + positions], dy[start : start + positions], dx[start : start + positions]
            m, k, b = mean[c - c0], scale[c - c0], bias[c - c0]
            if constant:
                for i in range(len(xs)):
                    g = _before_relu(_wide(gs[i]), _wide(xs[i]) - m, k, b, relu, zero)
                    out[i] = _narrow(g * k, xs[i])
            else:
                e, f = shift[c - c0], slope[c - c0]
                for i in range(len(xs)):
                    centered = _wide(xs[i]) - m
                    g = _before_relu(_wide(gs[i]), centered, k, b, relu, zero)
                    out[i] = _narrow(g * k - e - centered * f, xs[i])


# With max pooling. The channels are innermost, so a window of 2 × 2 is two pairs of neighbors, each of them a chunk of
# channels, in two rows of an image. These two rows are a band. The last band of an image of odd height is a single row,
# without windows.


@numba.njit(inline="always")
def _bands(data: Any, number: int) -> Any:
    """The numbers of the bands of a tile."""
    a = carray(_integers(data), ARGUMENTS)
    images, bands = a[N] // (a[HEIGHT] * a[WIDTH]), (a[HEIGHT] + 1) // 2
    begin, end = _share(images * bands, a[ROWS], number // a[COLUMNS], 1)
    return range(begin, end)


@numba.njit(inline="always")
def _places(data: Any, band: int) -> tuple[int, int, int, int]:
    """Where a band begins in x and in y, and its numbers of rows and of windows."""
    a = carray(_integers(data), ARGUMENTS)
    image, row = band // ((a[HEIGHT] + 1) // 2), band % ((a[HEIGHT] + 1) // 2)
    rows = min(2, a[HEIGHT] - 2 * row)
    in_x = (image * a[HEIGHT] + 2 * row) * a[WIDTH] * a[C]
    in_y = (image * (a[HEIGHT] // 2) + row) * (a[WIDTH] // 2) * a[C]
    return in_x, in_y, rows, a[WIDTH] // 2 if rows == 2 else 0


@numba.njit(inline="always")
def _window(values: Any, begin: int, chunk: int, across: int, down: int) -> Any:
    """The four chunks of a window, in row-major order."""
    i, j, k = begin + across, begin + down, begin + across + down
    return values[begin : begin + chunk], values[i : i + chunk], values[j : j + chunk], values[k : k + chunk]


@_elementwise
def _maximum(first: Any, second: Any, third: Any, fourth: Any) -> Any:
    """The maximum of a window in row-major order, and whether it is the second, the third, the fourth.

    The winner is that of PyTorch: the first of several maxima, but the last NaN.
    """
    is_second = (second > first) | (second != second)
    best = second if is_second else first
    is_third = (third > best) | (third != third)
    best = third if is_third else best
    is_fourth = (fourth > best) | (fourth != fourth)
    best = fourth if is_fourth else best
    is_third &= not is_fourth
    is_second &= not (is_third | is_fourth)
    return best, is_second, is_third, is_fourth


@_elementwise
def _tile_pooled(data: Any, number: int) -> None:
    """The maximum of y over each window, with or without the ReLU."""
    a = carray(_integers(data), ARGUMENTS)
    channels, line, size = a[C], a[WIDTH] * a[C], a[N] * a[C]
    x, y = carray(_values(a[X], data), size), carray(_values(a[OUT], data), size)
    _, _, c0, c1 = _bounds(data, number)
    chunk = c1 - c0
    mean, scale, bias = _affine(data, c0, c1, chunk)
    low = mean.dtype.type(0 if a[RELU] else -np.inf)
    for band in _bands(data, number):
        in_x, in_y, _, windows = _places(data, band)
        for window in range(windows):
            i, o = in_x + 2 * window * channels + c0, in_y + window * channels + c0
            x1, x2, x3, x4 = _window(x, i, chunk, channels, line)
            ys = y[o : o + chunk]
            for c in range(chunk):
                value, _, _, _ = _maximum(
                    (_wide(x1[c]) - mean[c]) * scale[c] + bias[c],
                    (_wide(x2[c]) - mean[c]) * scale[c] + bias[c],
                    (_wide(x3[c]) - mean[c]) * scale[c] + bias[c],
                    (_wide(x4[c]) - mean[c]) * scale[c] + bias[c],
                )
                ys[c] = _narrow(low if value < low else value, x1[c])


@_summing
def _tile_pooled_gradient_sums(data: Any, number: int) -> None:
    """As `_tile_gradient_sums`: the other values of a window have the gradient 0."""
    a = carray(_integers(data), ARGUMENTS)
    channels, line, size, relu = a[C], a[WIDTH] * a[C], a[N] * a[C], a[RELU] != 0
    x, dy = carray(_values(a[X], data), size), carray(_values(a[DY], data), size)
    _, _, c0, c1 = _bounds(data, number)
    chunk = c1 - c0
    mean, scale, bias = _affine(data, c0, c1, chunk)
    zero = mean.dtype.type(0)
    sum1, sum2 = np.zeros(chunk), np.zeros(chunk)
    block1, block2 = np.empty(chunk, mean.dtype), np.empty(chunk, mean.dtype)
    for band in _bands(data, number):
        in_x, in_y, _, windows = _places(data, band)
        for begin in range(0, windows, BLOCK):
            block1[:] = 0
            block2[:] = 0
            for window in range(begin, min(begin + BLOCK, windows)):
                i, o = in_x + 2 * window * channels + c0, in_y + window * channels + c0
                x1, x2, x3, x4 = _window(x, i, chunk, channels, line)
                gs = dy[o : o + chunk]
                for c in range(chunk):
                    m, k, b = mean[c], scale[c], bias[c]
                    centered1, centered2 = _wide(x1[c]) - m, _wide(x2[c]) - m
                    centered3, centered4 = _wide(x3[c]) - m, _wide(x4[c]) - m
                    value, is_second, is_third, is_fourth = _maximum(
                        centered1 * k + b, centered2 * k + b, centered3 * k + b, centered4 * k + b
                    )
                    centered = centered2 if is_second else centered1
                    centered = centered3 if is_third else centered
                    centered = centered4 if is_fourth else centered
                    g = zero if relu and not value > zero else _wide(gs[c])
                    block1[c] += g
                    block2[c] += g * centered
            for c in range(chunk):
                sum1[c] += block1[c]
                sum2[c] += block2[c]
    _store(data, number, sum1, sum2)


@_elementwise
def _tile_pooled_input_gradient(data: Any, number: int) -> None:
    """As `_tile_input_gradient`: g is 0 but for the maxima, also for an odd last row or column of an image."""
    a = carray(_integers(data), ARGUMENTS)
    channels, line, size = a[C], a[WIDTH] * a[C], a[N] * a[C]
    relu, constant = a[RELU] != 0, a[SUM_DY] == 0
    x, dy = carray(_values(a[X], data), size), carray(_values(a[DY], data), size)
    dx = carray(_values(a[OUT], data), size)
    _, _, c0, c1 = _bounds(data, number)
    chunk = c1 - c0
    mean, scale, bias = _affine(data, c0, c1, chunk)
    shift, slope = _shift_and_slope(data, c0, c1, scale)
    zero = mean.dtype.type(0)
    for band in _bands(data, number):
        in_x, in_y, rows, windows = _places(data, band)
        for window in range(windows):
            i, o = in_x + 2 * window * channels + c0, in_y + window * channels + c0
            x1, x2, x3, x4 = _window(x, i, chunk, channels, line)
            dx1, dx2, dx3, dx4 = _window(dx, i, chunk, channels, line)
            gs = dy[o : o + chunk]
            for c in range(chunk):
                m, k, b, e, f = mean[c], scale[c], bias[c], shift[c], slope[c]
                centered1, centered2 = _wide(x1[c]) - m, _wide(x2[c]) - m
                centered3, centered4 = _wide(x3[c]) - m, _wide(x4[c]) - m
                value, is_second, is_third, is_fourth = _maximum(
                    centered1 * k + b, centered2 * k + b, centered3 * k + b, centered4 * k + b
                )
                g = zero if relu and not value > zero else _wide(gs[c])
                g1 = zero if is_second | is_third | is_fourth else g
                g2, g3, g4 = g if is_second else zero, g if is_third else zero, g if is_fourth else zero
                dx1[c] = _narrow(g1 * k if constant else g1 * k - e - centered1 * f, x1[c])
                dx2[c] = _narrow(g2 * k if constant else g2 * k - e - centered2 * f, x1[c])
                dx3[c] = _narrow(g3 * k if constant else g3 * k - e - centered3 * f, x1[c])
                dx4[c] = _narrow(g4 * k if constant else g4 * k - e - centered4 * f, x1[c])
        for row in range(rows):
            for column in range(2 * windows, a[WIDTH]):
                i = in_x + row * line + column * channels + c0
                for c in range(chunk):
                    value = zero if constant else -shift[c] - (_wide(x[i + c]) - mean[c]) * slope[c]
                    dx[i + c] = _narrow(value, x[i + c])


@numba.njit
def _sum_up(data: Any, gradients: bool) -> None:
    """The moments, or the gradient sums: those of the tiles of this thread, then, of some channels, of all tiles."""
    for number in _tiles(data):
        if gradients:
            _tile_gradient_sums(data, number)
        else:
            _tile_moments(data, number)
    _merge_tiles(data, gradients)


@numba.njit
def _sum_up_pooled_gradients(data: Any) -> None:
    """The gradient sums with max pooling."""
    for number in _tiles(data):
        _tile_pooled_gradient_sums(data, number)
    _merge_tiles(data, True)


@numba.njit
def _merge_tiles(data: Any, gradients: bool) -> None:
    """The results of all tiles merged; the channels are distributed among the threads."""
    a = carray(_integers(data), ARGUMENTS)
    if a[ROWS] == 1:
        for number in _tiles(data):
            _, _, c0, c1 = _bounds(data, number)
            _merge(data, gradients, c0, c1)
    else:
        _barrier()
        c0, c1 = _share(a[C], _thread_count(), _thread_number(), 16)
        _merge(data, gradients, c0, c1)
        _barrier()


@numba.njit
def _merge(data: Any, gradients: bool, c0: int, c1: int) -> None:
    if gradients:
        _merge_gradient_sums(data, c0, c1)
    else:
        _merge_moments(data, c0, c1)


# The loops. Each is called once per thread.


def moments(data: Any) -> None:
    """Mean and variance, and inv_std unless it is None."""
    _sum_up(data, False)


def normalize(data: Any) -> None:
    """y from mean and inv_std, or from mean and var."""
    for number in _tiles(data):
        _tile_normalized(data, number)


def forward(data: Any) -> None:
    """Mean, variance, inv_std and y."""
    _sum_up(data, False)
    for number in _tiles(data):
        _tile_normalized(data, number)


def gradient_sums(data: Any) -> None:
    """The gradient sums."""
    _sum_up(data, True)


def input_gradient(data: Any) -> None:
    """dx from the gradient sums."""
    for number in _tiles(data):
        _tile_input_gradient(data, number)


def backward(data: Any) -> None:
    """The gradient sums and dx."""
    _sum_up(data, True)
    for number in _tiles(data):
        _tile_input_gradient(data, number)


def pooled_normalize(data: Any) -> None:
    """`normalize` and max pooling."""
    for number in _tiles(data):
        _tile_pooled(data, number)


def pooled_forward(data: Any) -> None:
    """`forward` and max pooling."""
    _sum_up(data, False)
    for number in _tiles(data):
        _tile_pooled(data, number)


def pooled_gradient_sums(data: Any) -> None:
    """`gradient_sums` from the gradient after max pooling."""
    _sum_up_pooled_gradients(data)


def pooled_input_gradient(data: Any) -> None:
    """`input_gradient` from the gradient after max pooling."""
    for number in _tiles(data):
        _tile_pooled_input_gradient(data, number)


def pooled_backward(data: Any) -> None:
    """`backward` from the gradient after max pooling."""
    _sum_up_pooled_gradients(data)
    for number in _tiles(data):
        _tile_pooled_input_gradient(data, number)


_PLAIN = (moments, normalize, forward, gradient_sums, input_gradient, backward)
_POOLED = (pooled_normalize, pooled_forward, pooled_gradient_sums, pooled_input_gradient, pooled_backward)
_LOOPS = {loop.__name__: loop for loop in (*_PLAIN, *_POOLED)}
