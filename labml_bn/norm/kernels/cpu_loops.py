"""The loops of `cpu.py`, compiled by Numba and run by the threads of PyTorch.

An input of shape [batch, channels, *] is N·C·S values, value (n, c, s) at index (n·C + c)·S + s. That covers both
memory layouts: in a contiguous tensor S is the number of positions; in one with the channels innermost (two dimensions,
or channels_last) S is 1, and N counts batch · positions.

**Threads.** Numba's own thread pool would compete with PyTorch's for the cores: idle threads of both spin while they
wait for work. So the loops run on the threads that PyTorch has: `GOMP_parallel` of its OpenMP library calls a compiled
function once per thread, with a pointer to the arguments. The work is a grid of `rows` × `columns` tiles, a range of n
by a range of channels each. Thread t of T computes the tiles t, t + T, t + 2T, …: there may be fewer threads than asked
for, if a limit or dynamic adjustment is set in the environment.

**Accuracy.** Sums are accumulated in float64; those of the backward pass after at most a block of values per lane, in
the dtype of the arithmetic. The variance is never computed as E[x²] − E[x]²: within a block of
values it is gathered from differences to the block's first value, and blocks are merged by the formula of Chan, Golub &
LeVeque 1979. As the first value is one of the data, the squared difference of the mean from it is at most the block's
size times its variance, so at most that factor of float64's precision is lost.
"""

import ctypes
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

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

# A lookup in the library finds the symbols of those that it was linked with, OpenMP among them. If there is none, as
# in builds with another OpenMP, the AttributeError tells `kernels/__init__.py` that this kernel is not available.
_torch = ctypes.CDLL(str(next(Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"))))
_parallel = _torch.GOMP_parallel
_parallel.argtypes, _parallel.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
for _name in ("omp_get_thread_num", "omp_get_num_threads"):  # found by name, so that compiled code can be cached
    _address: Any = ctypes.cast(getattr(_torch, _name), ctypes.c_void_p).value
    llvmlite.binding.add_symbol(_name, _address)
_thread_number = types.ExternalFunction("omp_get_thread_num", types.int32())
_thread_count = types.ExternalFunction("omp_get_num_threads", types.int32())


def launch(loop: int, threads: int, *arguments: int) -> None:
    """Call the compiled loop at this address on so many of PyTorch's threads."""
    _parallel(loop, (ctypes.c_int64 * len(arguments))(*arguments), threads, 0)


def compiled(dtype: torch.dtype) -> dict[str, int]:
    """The addresses of the loops for inputs of this dtype, by name. Compiled once, then cached on the disk."""
    signature = types.void(types.CPointer(STORAGE[dtype]))
    try:
        loops = {loop.__name__: numba.cfunc(signature, cache=True)(loop) for loop in _LOOPS}
    except RuntimeError:  # neither beside this file nor in the user's home can a file be written
        loops = {loop.__name__: numba.cfunc(signature)(loop) for loop in _LOOPS}
    _kept.append(loops)
    return {name: loop.address for name, loop in loops.items()}


_kept: list[Any] = []  # the code lives as long as these objects


# What follows is compiled. `data` is a pointer to the arguments, which are integers; its type is that of the input.


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
    a = carray(_integers(data), 5)
    return range(_thread_number(), a[3] * a[4], _thread_count())


@numba.njit(inline="always")
def _bounds(number: int, N: int, C: int, S: int, rows: int, columns: int) -> tuple[int, int, int, int]:
    """The bounds of a tile.

    With the channels innermost, tiles are cut at multiples of 16, so that no two threads write to one cache line.
    """
    n0, n1 = _share(N, rows, number // columns, 1)
    c0, c1 = _share(C, columns, number % columns, 16 if S == 1 else 1)
    return n0, n1, c0, c1


# Contraction to fused multiply-add is the same in all loops, so the sign of y is found again in the backward pass. Sums
# may be reordered, which lets them be vectorized. NaN and infinity are respected.
_elementwise = numba.njit(fastmath={"contract", "nsz"}, error_model="numpy")
_summing = numba.njit(fastmath={"contract", "nsz", "reassoc"}, error_model="numpy")


@numba.njit(inline="always")
def _run_length(C: int, columns: int, c0: int, c1: int) -> int:
    """With the channels innermost, the loops process so many values at once.

    In a tile of all channels these are several rows: vector instructions take 16 values, so a run is a multiple of 16.
    """
    if columns > 1:
        return c1 - c0
    rows = 1
    while rows * C % 16:
        rows *= 2
    return rows * C


@numba.njit(inline="always")
def _repeated(vector: Any, c0: int, c1: int, length: int) -> Any:
    """The values for channels c0 to c1 of a vector, along a run."""
    result = np.empty(length, vector.dtype)
    for row in range(0, length, c1 - c0):
        result[row : row + c1 - c0] = vector[c0:c1]
    return result


def moments(data: Any) -> None:
    """Compute the tiles of this thread."""
    for number in _tiles(data):
        _moments(data, number)


@_summing
def _moments(data: Any, number: int) -> None:
    """Per row of tiles and channel: the mean, and the sum of squared differences from it."""
    a = carray(_integers(data), 7)
    N, C, S, rows, columns = a[0], a[1], a[2], a[3], a[4]
    x, parts = carray(_values(a[5], data), N * C * S), carray(_sums(a[6]), rows * 2 * C)
    like = carray(_vector(a[5], data), 1)
    n0, n1, c0, c1 = _bounds(number, N, C, S, rows, columns)
    part = parts[number // columns * 2 * C :]
    mean, squares = part[:C], part[C : 2 * C]
    mean[c0:c1] = 0.0
    squares[c0:c1] = 0.0
    count = 0.0
    if S == 1:
        length = _run_length(C, columns, c0, c1)
        step = C if columns > 1 else length
        first, block1, block2 = np.empty(length, like.dtype), np.empty(length), np.empty(length)
        end = (n1 - 1) * C + c1
        for begin in range(n0 * C + c0, end, BLOCK * step):
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
            added = float((stop - begin + C - 1) // C)
            for c in range(c0, c1):
                sum1, sum2 = 0.0, 0.0
                for i in range(c - c0, length, C):
                    sum1 += block1[i]
                    sum2 += block2[i]
                delta = first[c - c0] + sum1 / added - mean[c]
                squares[c] += sum2 - sum1 * sum1 / added + delta * delta * (count * added / (count + added))
                mean[c] += delta * (added / (count + added))
            count += added
        return
    for n in range(n0, n1):
        for s0 in range(0, S, LONG_BLOCK):
            added = float(min(s0 + LONG_BLOCK, S) - s0)
            for c in range(c0, c1):
                run = x[(n * C + c) * S + s0 : (n * C + c) * S + min(s0 + LONG_BLOCK, S)]
                start = _wide(run[0])
                sum1, sum2 = 0.0, 0.0
                for i in range(len(run)):
                    difference = np.float64(_wide(run[i]) - start)
                    sum1 += difference
                    sum2 += difference * difference
                delta = start + sum1 / added - mean[c]
                squares[c] += sum2 - sum1 * sum1 / added + delta * delta * (count * added / (count + added))
                mean[c] += delta * (added / (count + added))
            count += added


@_summing
def _merged_moments(data: Any) -> None:
    """The rows of `moments` merged, as mean and variance."""
    a = carray(_integers(data), 7)
    N, C, S, rows = a[0], a[1], a[2], a[3]
    parts = carray(_sums(a[4]), rows * 2 * C)
    mean, var = carray(_vector(a[5], data), C), carray(_vector(a[6], data), C)
    means, squares = parts[:C], parts[C : 2 * C]
    count = float(_share(N, rows, 0, 1)[1] * S)
    for row in range(1, rows):
        n0, n1 = _share(N, rows, row, 1)
        added = float((n1 - n0) * S)
        part = parts[row * 2 * C : row * 2 * C + 2 * C]
        for c in range(C):
            delta = part[c] - means[c]
            squares[c] += part[C + c] + delta * delta * (count * added / (count + added))
            means[c] += delta * (added / (count + added))
        count += added
    for c in range(C):
        mean[c], var[c] = means[c], squares[c] / count


def normalize(data: Any) -> None:
    """Compute the tiles of this thread."""
    for number in _tiles(data):
        _normalize(data, number)


@_elementwise
def _normalize(data: Any, number: int) -> None:
    """y, with or without the ReLU."""
    a = carray(_integers(data), 11)
    N, C, S, rows, columns, relu = a[0], a[1], a[2], a[3], a[4], a[5]
    x, y = carray(_values(a[6], data), N * C * S), carray(_values(a[7], data), N * C * S)
    mean, scale, bias = carray(_vector(a[8], data), C), carray(_vector(a[9], data), C), carray(_vector(a[10], data), C)
    n0, n1, c0, c1 = _bounds(number, N, C, S, rows, columns)
    zero = mean.dtype.type(0)
    low = zero if relu else mean.dtype.type(-np.inf)
    if S == 1:
        length = _run_length(C, columns, c0, c1)
        mean, scale = _repeated(mean, c0, c1, length), _repeated(scale, c0, c1, length)
        bias = _repeated(bias, c0, c1, length)
        end = (n1 - 1) * C + c1
        for start in range(n0 * C + c0, end, C if columns > 1 else length):
            xs, ys = x[start : min(start + length, end)], y[start : min(start + length, end)]
            for i in range(len(xs)):
                value = (_wide(xs[i]) - mean[i]) * scale[i] + bias[i]
                ys[i] = _narrow(low if value < low else value, xs[i])
        return
    for n in range(n0, n1):
        for c in range(c0, c1):
            start = (n * C + c) * S
            xs, ys = x[start : start + S], y[start : start + S]
            m, k, b = mean[c], scale[c], bias[c]
            for i in range(S):
                value = (_wide(xs[i]) - m) * k + b
                ys[i] = _narrow(low if value < low else value, xs[i])


def gradient_sums(data: Any) -> None:
    """Compute the tiles of this thread."""
    for number in _tiles(data):
        _gradient_sums(data, number)


@_summing
def _gradient_sums(data: Any, number: int) -> None:
    """Per row of tiles and channel: the sums of g and of g · (x − mean), where g is dy before the ReLU, if any."""
    a = carray(_integers(data), 12)
    N, C, S, rows, columns, relu = a[0], a[1], a[2], a[3], a[4], a[5]
    x, dy = carray(_values(a[6], data), N * C * S), carray(_values(a[7], data), N * C * S)
    mean, scale, bias = carray(_vector(a[8], data), C), carray(_vector(a[9], data), C), carray(_vector(a[10], data), C)
    parts = carray(_sums(a[11]), rows * 2 * C)
    n0, n1, c0, c1 = _bounds(number, N, C, S, rows, columns)
    part = parts[number // columns * 2 * C :]
    sum1, sum2 = part[:C], part[C : 2 * C]
    sum1[c0:c1] = 0.0
    sum2[c0:c1] = 0.0
    zero = mean.dtype.type(0)
    if S == 1:
        length = _run_length(C, columns, c0, c1)
        mean, scale = _repeated(mean, c0, c1, length), _repeated(scale, c0, c1, length)
        bias = _repeated(bias, c0, c1, length)
        block1, block2 = np.empty(length, mean.dtype), np.empty(length, mean.dtype)
        step = C if columns > 1 else length
        end = (n1 - 1) * C + c1
        for begin in range(n0 * C + c0, end, BLOCK * step):
            block1[:] = 0
            block2[:] = 0
            for start in range(begin, min(begin + BLOCK * step, end), step):
                xs, gs = x[start : min(start + length, end)], dy[start : min(start + length, end)]
                for i in range(len(xs)):
                    centered = _wide(xs[i]) - mean[i]
                    g = zero if relu and not centered * scale[i] + bias[i] > zero else _wide(gs[i])
                    block1[i] += g
                    block2[i] += g * centered
            for row in range(0, length, c1 - c0):
                for c in range(c1 - c0):
                    sum1[c0 + c] += block1[row + c]
                    sum2[c0 + c] += block2[row + c]
        return
    for n in range(n0, n1):
        for c in range(c0, c1):
            m, k, b = mean[c], scale[c], bias[c]
            for s0 in range(0, S, LONG_BLOCK):
                start, stop = (n * C + c) * S + s0, (n * C + c) * S + min(s0 + LONG_BLOCK, S)
                xs, gs = x[start:stop], dy[start:stop]
                block_sum1, block_sum2 = zero, zero
                for i in range(len(xs)):
                    centered = _wide(xs[i]) - m
                    g = zero if relu and not centered * k + b > zero else _wide(gs[i])
                    block_sum1 += g
                    block_sum2 += g * centered
                sum1[c] += block_sum1
                sum2[c] += block_sum2


def input_gradient(data: Any) -> None:
    """Compute the tiles of this thread."""
    for number in _tiles(data):
        _input_gradient(data, number)


@_elementwise
def _input_gradient(data: Any, number: int) -> None:
    """dx = scale · g − shift − slope · (x − mean): the equation of the reference, its constants merged.

    If the statistics are constants, shift and slope are null pointers, and dx = scale · g.
    """
    a = carray(_integers(data), 14)
    N, C, S, rows, columns, relu, constant = a[0], a[1], a[2], a[3], a[4], a[5], a[12] == 0
    x, dy = carray(_values(a[6], data), N * C * S), carray(_values(a[7], data), N * C * S)
    dx = carray(_values(a[8], data), N * C * S)
    mean, scale, bias = carray(_vector(a[9], data), C), carray(_vector(a[10], data), C), carray(_vector(a[11], data), C)
    shift = scale if constant else carray(_vector(a[12], data), C)
    slope = scale if constant else carray(_vector(a[13], data), C)
    n0, n1, c0, c1 = _bounds(number, N, C, S, rows, columns)
    zero = mean.dtype.type(0)
    if S == 1:
        length = _run_length(C, columns, c0, c1)
        mean, scale = _repeated(mean, c0, c1, length), _repeated(scale, c0, c1, length)
        bias, shift = _repeated(bias, c0, c1, length), _repeated(shift, c0, c1, length)
        slope = _repeated(slope, c0, c1, length)
        end = (n1 - 1) * C + c1
        for start in range(n0 * C + c0, end, C if columns > 1 else length):
            stop = min(start + length, end)
            xs, gs, out = x[start:stop], dy[start:stop], dx[start:stop]
            if constant:
                for i in range(len(xs)):
                    g = zero if relu and not (_wide(xs[i]) - mean[i]) * scale[i] + bias[i] > zero else _wide(gs[i])
                    out[i] = _narrow(g * scale[i], xs[i])
            else:
                for i in range(len(xs)):
                    centered = _wide(xs[i]) - mean[i]
                    g = zero if relu and not centered * scale[i] + bias[i] > zero else _wide(gs[i])
                    out[i] = _narrow(g * scale[i] - shift[i] - centered * slope[i], xs[i])
        return
    for n in range(n0, n1):
        for c in range(c0, c1):
            start = (n * C + c) * S
            xs, gs, out = x[start : start + S], dy[start : start + S], dx[start : start + S]
            m, k, b = mean[c], scale[c], bias[c]
            if constant:
                for i in range(S):
                    g = zero if relu and not (_wide(xs[i]) - m) * k + b > zero else _wide(gs[i])
                    out[i] = _narrow(g * k, xs[i])
            else:
                e, f = shift[c], slope[c]
                for i in range(S):
                    centered = _wide(xs[i]) - m
                    g = zero if relu and not centered * k + b > zero else _wide(gs[i])
                    out[i] = _narrow(g * k - e - centered * f, xs[i])


def merged_moments(data: Any) -> None:
    """Merge the tiles of `moments`; for one thread."""
    _merged_moments(data)


_LOOPS = (moments, merged_moments, normalize, gradient_sums, input_gradient)
