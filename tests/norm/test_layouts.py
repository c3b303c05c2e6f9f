"""Any strides, shapes and dtypes: outputs and gradients against plain arithmetic in float64 on contiguous copies.

PyTorch's layer is not the reference, as it is wrong for some of these cases: see
`test_a_case_in_which_pytorch_is_wrong`. The memory format of the results is PyTorch's.

On a machine without a GPU, Triton's interpreter runs the kernels of `cuda.py`, in a process of its own: see
`kernels/test_cuda.py`.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from labml_bn import BatchNorm
from labml_bn.norm import kernels
from labml_bn.norm.kernels import cpu, operators, reference
from labml_bn.norm.kernels.layout import is_channels_last, memory_format

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
KERNELS = [reference, cpu, operators]
if INTERPRETED:
    from labml_bn.norm.kernels import cuda

    KERNELS = [cuda]

#: The largest error of a value, relative to the largest value of the tensor.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
#: Of second derivatives, which automatic differentiation adds up in the dtype of the tensor.
TOLERANCE_2 = {torch.float64: 1e-11, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 0.2}


@st.composite
def strided(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of multiples of 1/4, which are exact in every dtype, with any strides and offset.

    The dimensions are stored in any order, with gaps between the values of some, or as one value that is repeated.
    Those of size 1 have any stride.
    """
    dims = len(shape)
    orders = [tuple(range(dims)), (0, *range(2, dims), 1)]  # contiguous, channels_last
    order = draw(st.one_of(st.sampled_from(orders), st.permutations(range(dims))), label="order")
    any_kinds = st.lists(st.sampled_from(["dense", "dense", "gaps", "repeated"]), min_size=dims, max_size=dims)
    kinds = draw(st.one_of(st.just(["dense"] * dims), any_kinds), label="kinds of dimensions")
    any_stride = st.one_of(st.none(), st.sampled_from([1, 7, 40]))
    strides_of_ones = draw(st.lists(any_stride, min_size=dims, max_size=dims), label="strides of sizes of 1")
    offset, seed = draw(st.integers(0, 3), label="offset"), draw(st.integers(0, 999), label="seed")

    stride, strides = 1, [0] * dims
    for dim in reversed(order):
        if shape[dim] == 1:
            strides[dim] = strides_of_ones[dim] or stride
        elif kinds[dim] != "repeated":
            strides[dim] = 2 * stride if kinds[dim] == "gaps" else stride
            stride = strides[dim] * shape[dim]
    values = torch.randint(-12, 13, (offset + stride + 1,), generator=torch.Generator().manual_seed(seed))
    x = (values / 4).to(dtype).as_strided(shape, strides, offset)
    hypothesis.note(f"shape {shape}, strides {strides}, offset {offset}, {dtype}")
    return x


@dataclass
class Case:
    """The input and a layer for it, the gradient of the output, and weights for the sum of the gradients."""

    layer: BatchNorm
    x: Tensor
    dy: Tensor
    weights: tuple[Tensor, ...]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    dims = draw(st.sampled_from([0, 1, 2, 2, 3]), label="trailing dimensions")
    trailing = draw(st.lists(st.integers(1, 4), min_size=dims, max_size=dims), label="trailing")
    shape = (draw(st.integers(1, 4), label="batch"), draw(st.integers(1, 5), label="channels"), *trailing)
    training = draw(st.booleans(), label="training")
    hypothesis.assume(not training or torch.Size(shape).numel() > shape[1])
    dtype = draw(st.sampled_from(list(TOLERANCE)), label="dtype")
    pools = len(shape) == 4 and min(trailing) > 1 and draw(st.booleans(), label="max_pool")
    layer = BatchNorm(
        shape[1],
        eps=draw(st.sampled_from([0.1, 0.5]), label="eps"),
        affine=draw(st.booleans(), label="affine"),
        bias=draw(st.booleans(), label="bias"),
        activation=draw(st.sampled_from([None, "relu"]), label="activation"),
        max_pool=2 if pools else None,
        dtype=draw(st.sampled_from([dtype, torch.promote_types(dtype, torch.float32)]), label="dtype of the layer"),
    ).train(training)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999), label="seed of the layer"))
    with torch.no_grad():
        for vector in (layer.weight, layer.running_var):
            if vector is not None:
                vector.copy_(torch.randint(2, 7, vector.shape, generator=generator) / 4)
        for vector in (layer.bias, layer.running_mean):
            if vector is not None:
                vector.copy_(torch.randint(-4, 5, vector.shape, generator=generator) / 4)
    x = draw(strided(shape, dtype), label="x")
    output = (*shape[:2], *(size // 2 for size in trailing)) if pools else shape
    dy = draw(strided(output, dtype), label="dy")
    weights = [draw(strided(shape, dtype), label="weights")]
    weights += [torch.randint(-4, 5, p.shape, generator=generator).to(p.dtype) / 4 for p in layer.parameters()]
    return Case(layer, x, dy, tuple(weights))


def arithmetic(layer: BatchNorm, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """y by the equations, in float64. Cases are left out in which rounding would decide what the ReLU cuts off."""
    channels = x.transpose(0, 1).flatten(1)
    if layer.training:
        mean = channels.sum(1, keepdim=True) / channels.shape[1]
        var = (channels - mean).square().sum(1, keepdim=True) / channels.shape[1]
    else:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean, var = layer.running_mean.double()[:, None], layer.running_var.double()[:, None]
    result = (channels - mean) / (var + layer.eps).sqrt()
    result = result if weight is None else result * weight[:, None]
    result = result if bias is None else result + bias[:, None]
    result = result.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)
    if layer.max_pool is not None:
        windows = result.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
        result = windows.gather(4, windows.argmax(4, keepdim=True)).squeeze(4)  # the first of several
    if layer.activation == "relu":
        hypothesis.assume(result.abs().min().item() > 1e-3)
        result = torch.where(result > 0, result, 0)
    return result


def assert_near(found: Tensor | None, expected: Tensor | None, tolerance: float, what: str) -> None:
    if expected is None:  # it does not depend on this input
        expected = torch.zeros(1, dtype=torch.float64)
    if found is None:
        found = torch.zeros_like(expected)
    size = expected.abs().max().clamp(min=1)
    error = ((found.double() - expected).abs().max() / size).item()
    assert error <= tolerance, f"{what} is off by {error:.1g}, relative to {size:.3g}"


def check(case: Case) -> None:
    """Compare the output, the gradients, and the gradients of a sum of the gradients."""
    layer, dtype = case.layer, case.x.dtype
    x, dy = case.x.detach().requires_grad_(), case.dy.detach().requires_grad_()
    parameters = dict(layer.named_parameters())
    names = ["x", *parameters, "dy"]
    y = layer(x)
    first = torch.autograd.grad(y, (x, *parameters.values()), dy.detach(), retain_graph=True)
    again = torch.autograd.grad(y, (x, *parameters.values()), dy, create_graph=True)
    total = sum(((gradient * u).sum() for gradient, u in zip(again, case.weights, strict=True)), torch.zeros(()))
    second = torch.autograd.grad(total, (x, *parameters.values(), dy), allow_unused=True)

    x64, dy64 = (t.detach().double().contiguous().requires_grad_() for t in (x, dy))
    parameters64 = {name: p.detach().double().requires_grad_() for name, p in parameters.items()}
    y64 = arithmetic(layer, x64, parameters64.get("weight"), parameters64.get("bias"))
    first64 = torch.autograd.grad(y64, (x64, *parameters64.values()), dy64, create_graph=True)
    total64 = sum(
        ((gradient * u.double()).sum() for gradient, u in zip(first64, case.weights, strict=True)),
        torch.zeros((), dtype=torch.float64),
    )
    second64 = torch.autograd.grad(total64, (x64, *parameters64.values(), dy64), allow_unused=True)

    assert (y.dtype, first[0].dtype, second[0] is None or second[0].dtype) == (dtype, dtype, second[0] is None or dtype)
    assert_near(y, y64, TOLERANCE[dtype], "y")
    with torch.no_grad():
        assert_near(layer(x), y64, TOLERANCE[dtype], "y without gradients")
    for name, *found, expected in zip(names[:-1], first, again, first64, strict=True):
        assert_near(found[0], expected, TOLERANCE[dtype], f"the gradient of {name}")
        assert_near(found[1], expected, TOLERANCE[dtype], f"the differentiable gradient of {name}")
    for name, gradient, expected64 in zip(names, second, second64, strict=True):
        assert_near(gradient, expected64, TOLERANCE_2[dtype], f"the second derivative by {name}")

    layout = memory_format(x)
    dense = x.is_contiguous() or is_channels_last(x)
    if dense or 1 not in x.shape:  # else PyTorch's choice depends on the strides of sizes of 1
        theirs = functional.batch_norm(x.detach(), x.new_zeros(x.shape[1]), x.new_ones(x.shape[1]))
        expected_formats = theirs.is_contiguous(), is_channels_last(theirs)
        assert (first[0].is_contiguous(), is_channels_last(first[0])) == expected_formats
    for result in (first[0], again[0], *([] if layer.max_pool else [y])):
        assert result.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__.rpartition(".")[2])
@pytest.mark.parametrize("threads", [1, 3])
def test_any_strides(kernel: ModuleType, threads: int) -> None:
    """In training and in evaluation, with and without ReLU, max pooling, weight and bias."""

    @hypothesis.settings(
        max_examples=100 if INTERPRETED else 400,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=cases())
    def run(case: Case) -> None:
        check(case)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "_choose", lambda tensors: kernel)
            patch.setattr(cpu, "ONE_THREAD", 0)
            run()
    finally:
        torch.set_num_threads(before)


if not INTERPRETED:

    @pytest.mark.slow
    def test_any_strides_on_a_gpu_in_the_interpreter() -> None:
        pytest.importorskip("triton")
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__]
        environment = {**os.environ, "TRITON_INTERPRET": "1"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def test_a_case_in_which_pytorch_is_wrong() -> None:
    """The input is channels_last and the gradient of the output contiguous, because of a dimension of size 1."""
    torch.manual_seed(0)
    linear, layer = nn.Linear(21, 2).double(), BatchNorm(3).double()
    x = torch.randn(4, 7, 3, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        y: Tensor = linear(layer(x.transpose(1, 2).unsqueeze(-1)).flatten(1))
        return y.square().sum()

    for training in (True, False):
        layer.train(training)
        assert torch.autograd.gradcheck(function, (x,))
        assert torch.autograd.gradgradcheck(function, (x,))
