"""The same cases over every kernel: the four operations against their equations in float64, on contiguous copies."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from labml_bn import BatchNorm
from labml_bn.norm.kernels import cpu, operators, reference

KERNELS = [reference, cpu, operators]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SMALL = [(6, 3), (1, 3, 5), (4, 1), (4, 3, 5, 2), (2, 3, 2, 4, 3), (3, 5, 1, 1), (70, 17)]
#: Processed by several threads: by rows and by channels, in both layouts; also fewer rows or channels than threads.
LARGE = [(40, 20, 9, 9), (2, 3, 60, 60), (1, 5, 70, 70), (64, 500), (2100, 33)]
#: A case with each dtype, layout, set of vectors and ReLU for a small shape; fewer for the large ones.
CASES = [
    *[(shape, dtype, layout) for shape in SMALL for dtype in DTYPES for layout in ("contiguous", "channels_last")],
    *[(shape, torch.float32, layout) for shape in SMALL for layout in ("transposed", "strided")],
    *[(shape, torch.float32, layout) for shape in LARGE for layout in ("contiguous", "channels_last")],
    *[(shape, dtype, "contiguous") for shape in LARGE for dtype in (torch.float64, torch.bfloat16)],
]
#: Images to be max-pooled: of odd sizes, smaller than a window, with few and with many channels, in one and more tiles.
POOLED = [(2, 3, 4, 4), (3, 5, 5, 7), (1, 2, 2, 3), (2, 33, 3, 2), (40, 20, 9, 9), (1, 3, 90, 61), (9, 50, 8, 8)]
POOLED_CASES = [
    *[(shape, torch.float32) for shape in (*POOLED, (3, 500, 6, 6))],  # the last one in tiles of some of the channels
    *[(shape, dtype) for shape in POOLED[1:5] for dtype in (torch.float64, torch.bfloat16, torch.float16)],
]


@pytest.fixture(params=KERNELS, ids=lambda kernel: kernel.__name__.rpartition(".")[2])
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@pytest.fixture(autouse=True)
def _threads() -> Any:
    """Several threads, even if the tests run with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0, mean: float = 0.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean).to(dtype)


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def channels(x: Tensor) -> Tensor:
    """The values in float64 as [channels, values]."""
    return x.double().transpose(0, 1).flatten(1)


def tolerance(dtype: torch.dtype) -> dict[str, Any]:
    return {"rtol": 16 * torch.finfo(dtype).eps, "atol": 16 * torch.finfo(dtype).eps}


def in_layout(x: Tensor, layout: str) -> Tensor:
    """The same values with other strides."""
    if layout == "channels_last":
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        return x.contiguous(memory_format=formats[x.dim()]) if x.dim() in formats else x
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided":
        return torch.stack((x, x), dim=-1)[..., 0]
    if layout == "sliced":
        return torch.cat((x, x), dim=-1).contiguous(memory_format=torch.channels_last)[..., : x.shape[-1]]
    return x


class Case:
    """Inputs of the operations, and what they give in float64."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, affine: bool = True, relu: bool = False) -> None:
        size, vector = (shape[1],), wide(dtype)
        self.x, self.dy = random(shape, dtype), random(shape, dtype, seed=1)
        self.mean, self.inv_std = random(size, vector, seed=2), random(size, vector, seed=3).abs() + 0.1
        self.weight = random(size, vector, seed=4) if affine else None
        self.bias = random(size, vector, seed=5) if affine else None
        self.mean_dy, self.mean_dy_xhat = random(size, vector, seed=6), random(size, vector, seed=7)

        one = torch.ones(size, dtype=torch.float64)
        weight = one if self.weight is None else self.weight.double()
        bias = 0 * one if self.bias is None else self.bias.double()
        x_hat = (channels(self.x) - self.mean.double()[:, None]) * self.inv_std.double()[:, None]
        self.y = x_hat * weight[:, None] + bias[:, None]
        if relu:
            # Where rounding decides the sign of y, the gradient is 0, so that it does not matter.
            ambiguous = self.y.abs() < 1e-4
            zeroed = channels(self.dy).masked_fill(ambiguous, 0)
            self.dy = zeroed.view(shape[1], shape[0], *shape[2:]).transpose(0, 1).to(dtype).contiguous()
        g = channels(self.dy) * (self.y > 0) if relu else channels(self.dy)
        self.y = self.y.clamp(min=0) if relu else self.y
        self.sums = g.sum(1), (g * x_hat).sum(1)
        scale = (weight * self.inv_std.double())[:, None]
        self.dx = scale * (g - self.mean_dy.double()[:, None] - x_hat * self.mean_dy_xhat.double()[:, None])
        self.constant_dx = scale * g

    @property
    def vectors(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        return self.mean, self.inv_std, self.weight, self.bias


@pytest.mark.parametrize(("shape", "dtype", "layout"), CASES, ids=str)
def test_moments(kernel: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    x = random(shape, dtype, mean=1.0)
    mean, var = kernel.moments(in_layout(x, layout))
    assert mean.dtype == var.dtype == wide(dtype)
    near = 64 * torch.finfo(wide(dtype)).eps
    torch.testing.assert_close(mean.double(), channels(x).mean(1), rtol=near, atol=near)
    torch.testing.assert_close(var.double(), channels(x).var(1, correction=0), rtol=near, atol=near)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_moments_with_large_means(kernel: ModuleType, size: float, layout: str) -> None:
    """The variance is accurate in float32; E[x²] − E[x]² has no correct digit at a mean of 1e4."""
    x = random((64, 3, 20, 20), torch.float32, mean=size)
    mean, var = kernel.moments(in_layout(x, layout))
    torch.testing.assert_close(mean.double(), channels(x).mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), channels(x).var(1, correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_moments_with_an_outlier_first(kernel: ModuleType, layout: str) -> None:
    """A first value far from all others does not spoil the sums."""
    x = random((64, 3, 20, 20), torch.float32)
    x[0, :, 0, 0] = 1e4
    mean, var = kernel.moments(in_layout(x, layout))
    torch.testing.assert_close(mean.double(), channels(x).mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var.double(), channels(x).var(1, correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_moments_accumulate_in_float32(kernel: ModuleType, dtype: torch.dtype) -> None:
    """A sum of ones stops growing at 2,048 in float16 and at 256 in bfloat16."""
    mean, var = kernel.moments(torch.ones(100_000, 1, dtype=dtype))
    torch.testing.assert_close((mean, var), (torch.ones(1), torch.zeros(1)))


@pytest.mark.parametrize(("affine", "relu"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize(("shape", "dtype", "layout"), CASES, ids=str)
def test_element_by_element_and_sums(
    kernel: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, layout: str, affine: bool, relu: bool
) -> None:
    case = Case(shape, dtype, affine, relu)
    x, dy = in_layout(case.x, layout), in_layout(case.dy, layout)

    y = kernel.normalize(x, *case.vectors, relu)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    torch.testing.assert_close(channels(y), case.y, **tolerance(dtype))

    sums = kernel.gradient_sums(dy, x, *case.vectors, relu)
    for found, expected in zip(sums, case.sums, strict=True):
        assert found.dtype == wide(dtype)
        near = tolerance(wide(dtype))
        torch.testing.assert_close(found.double(), expected, rtol=near["rtol"], atol=near["atol"] * x.numel() ** 0.5)

    dx = kernel.input_gradient(dy, x, *case.vectors, case.mean_dy, case.mean_dy_xhat, relu)
    constant_dx = kernel.input_gradient(dy, x, *case.vectors, None, None, relu)
    assert dx.dtype == constant_dx.dtype == dtype
    torch.testing.assert_close(channels(dx), case.dx, rtol=tolerance(dtype)["rtol"], atol=4 * tolerance(dtype)["atol"])
    torch.testing.assert_close(channels(constant_dx), case.constant_dx, **tolerance(dtype))


@pytest.mark.parametrize(("affine", "relu"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize(("shape", "dtype", "layout"), CASES, ids=str)
def test_all_operations_of_a_pass_in_one_call(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, affine: bool, relu: bool
) -> None:
    """What the single operations give, except for rounding: each loop is compiled separately."""
    case, eps = Case(shape, dtype, affine, relu), 1e-3
    x, dy = in_layout(case.x, layout), in_layout(case.dy, layout)
    y, mean, var, inv_std = cpu.forward(x, case.weight, case.bias, eps, relu)
    near = tolerance(wide(dtype))
    torch.testing.assert_close((mean, var), cpu.moments(x), **near)
    torch.testing.assert_close(inv_std.double(), (var.double() + eps) ** -0.5, **near)
    torch.testing.assert_close(y, cpu.normalize(x, mean, inv_std, case.weight, case.bias, relu), **tolerance(dtype))
    torch.testing.assert_close(y, cpu.inference(x, mean, var, case.weight, case.bias, eps, relu), **tolerance(dtype))

    dx, *sums = cpu.backward(dy, x, *case.vectors, relu)
    near["atol"] *= x.numel() ** 0.5
    torch.testing.assert_close(tuple(sums), cpu.gradient_sums(dy, x, *case.vectors, relu), **near)
    sum_dy, sum_dy_xhat = (total.double() / (x.numel() // shape[1]) for total in sums)
    expected = cpu.input_gradient(dy, x, *case.vectors, sum_dy, sum_dy_xhat, relu)
    torch.testing.assert_close(dx, expected, **tolerance(dtype))


def test_dy_in_another_layout_and_dtype(kernel: ModuleType) -> None:
    case = Case((4, 3, 5, 6), torch.float32)
    for dy in (in_layout(case.dy, "channels_last"), case.dy.double(), case.dy[:1].expand(4, 3, 5, 6)):
        for x in (case.x, in_layout(case.x, "channels_last")):
            found = kernel.input_gradient(dy, x, *case.vectors, case.mean_dy, case.mean_dy_xhat)
            expected = reference.input_gradient(dy.contiguous(), case.x, *case.vectors, case.mean_dy, case.mean_dy_xhat)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_non_finite_values_are_not_hidden(kernel: ModuleType, value: float) -> None:
    """Also by the ReLU: max(NaN, 0) is NaN."""
    x = random((8, 3, 4, 4), torch.float32)
    x[0, 1, 0, 0] = value
    mean, var = kernel.moments(x)
    assert not var[1].isfinite()
    assert mean[[0, 2]].isfinite().all()
    ones = torch.ones(3)
    y = kernel.normalize(x, 0 * ones, ones, ones, 0 * ones, True)
    torch.testing.assert_close(y, x.relu(), equal_nan=True)


#: Where values of a channel are replaced, as fractions of their number, and by what; and the mean.
INFINITE: dict[str, tuple[dict[float, float], float]] = {
    "first": ({0: torch.inf}, torch.inf),
    "middle": ({0.5: -torch.inf}, -torch.inf),
    "last": ({1: torch.inf}, torch.inf),
    "two": ({0.3: -torch.inf, 0.9: -torch.inf}, -torch.inf),
    "first and last": ({0: torch.inf, 1: torch.inf}, torch.inf),
    "all": ({fraction / 9000: torch.inf for fraction in range(9001)}, torch.inf),
    "both signs": ({0.2: torch.inf, 0.7: -torch.inf}, torch.nan),
    "NaN": ({0: torch.nan}, torch.nan),
    "infinity and NaN": ({0.1: torch.inf, 0.6: torch.nan}, torch.nan),
}


@pytest.mark.parametrize("case", INFINITE)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*[((4, 3, 5, 2), dtype) for dtype in DTYPES], *[(shape, torch.float32) for shape in ((70, 17), *LARGE[::2])]],
    ids=str,
)
def test_the_mean_of_infinite_values(
    kernel: ModuleType, shape: tuple[int, ...], layout: str, dtype: torch.dtype, case: str
) -> None:
    """It is infinite if all of them are equal: in every block and tile. Other channels are not affected."""
    replaced, expected = INFINITE[case]
    x = random(shape, dtype)
    channel = x[:, 1].clone().flatten()
    for fraction, value in replaced.items():
        channel[round(fraction * (len(channel) - 1))] = value
    x[:, 1] = channel.view_as(x[:, 1])
    finite = [c for c in range(shape[1]) if c != 1]
    mean, var = kernel.moments(in_layout(x, layout))
    torch.testing.assert_close(mean[1].item(), expected, equal_nan=True)
    assert var[1].isnan()
    near = 64 * torch.finfo(wide(dtype)).eps
    torch.testing.assert_close(mean.double()[finite], channels(x)[finite].mean(1), rtol=near, atol=near)
    torch.testing.assert_close(var.double()[finite], channels(x)[finite].var(1, correction=0), rtol=near, atol=near)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(64, 3), (40, 2, 7, 5), *LARGE], ids=str)
@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (torch.float32, 3e38),
        (torch.bfloat16, 3e38),
        (torch.float64, 1e160),
    ],
    ids=str,
)
def test_values_whose_differences_or_squares_overflow(
    kernel: ModuleType, dtype: torch.dtype, size: float, shape: tuple[int, ...], layout: str
) -> None:
    """The mean is finite, and the variance infinite."""
    x = random(shape, torch.float32).sign().to(dtype) * size
    mean, var = kernel.moments(in_layout(x, layout))
    near = 64 * torch.finfo(wide(dtype)).eps
    torch.testing.assert_close(mean.double() / size, channels(x.double() / size).mean(1), rtol=near, atol=near)
    assert var.isposinf().all()


@pytest.mark.parametrize("momentum", [0.1, 0.5, 0.9, None])
def test_running_mean_with_infinite_values(momentum: float | None) -> None:
    layer = BatchNorm(2, momentum=momentum)
    x = random((8, 2, 3), torch.float32)
    x[0, 0, 0] = torch.inf
    layer(x)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.running_mean[0] == torch.inf
    assert layer.running_var[0].isnan()
    assert layer.running_mean[1].isfinite()


@pytest.mark.parametrize("shape", [(64, 20, 24, 24), (64, 500), (300, 50, 8, 8)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_twice_the_same_to_the_last_bit(kernel: ModuleType, shape: tuple[int, ...], layout: str) -> None:
    case = Case(shape, torch.float32)
    x, dy = in_layout(case.x, layout), in_layout(case.dy, layout)

    def results() -> list[Tensor]:
        mean, var = kernel.moments(x)
        sums = kernel.gradient_sums(dy, x, *case.vectors, True)
        return [mean, var, kernel.normalize(x, *case.vectors), *sums]

    first = results()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, results(), strict=True))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_mask_of_the_relu_is_that_of_the_forward_pass(kernel: ModuleType, layout: str) -> None:
    """To the last bit: the gradient is 0 exactly if the output was."""
    case = Case((64, 20, 24, 24), torch.float32)
    x = in_layout(case.x, layout)
    y = kernel.normalize(x, *case.vectors, True)
    dx = kernel.input_gradient(torch.ones_like(x), x, *case.vectors, None, None, True)
    assert torch.equal(dx == 0, y == 0)


def unpool(dy: Tensor, y: Tensor) -> Tensor:
    """The gradient before max pooling, by PyTorch."""
    y = y.contiguous().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(functional.max_pool2d(y, 2), y, dy.to(y.dtype))
    return gradient.to(dy.dtype)


@pytest.mark.parametrize("values", ["random", "ties", "non-finite"])
@pytest.mark.parametrize(("affine", "relu"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize(("shape", "dtype"), POOLED_CASES, ids=str)
def test_max_pooling(shape: tuple[int, ...], dtype: torch.dtype, values: str, affine: bool, relu: bool) -> None:
    """As PyTorch's max pooling of this kernel's own y, before it is rounded to a narrow dtype: to the last bit."""
    case = Case(shape, dtype, affine)
    if values == "ties":
        case.x.round_()
        case.x[:, 0] = 0.5
    elif values == "non-finite":
        for number, value in enumerate((torch.nan, torch.inf, -torch.inf)):
            case.x.masked_fill_(random(shape, torch.float32, seed=8 + number) > 1, value)
    x, dy = in_layout(case.x, "channels_last"), random(shape, dtype, seed=1)[:, :, : shape[2] // 2, : shape[3] // 2]
    y = cpu.normalize(x.to(wide(dtype)), *case.vectors, relu)
    full_dy = in_layout(unpool(dy, y), "channels_last")

    pooled = cpu.normalize(x, *case.vectors, relu, pool=True)
    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled, functional.max_pool2d(y, 2).to(dtype), rtol=0, atol=0, equal_nan=True)

    dx = cpu.input_gradient(dy, x, *case.vectors, case.mean_dy, case.mean_dy_xhat, relu)
    constant_dx = cpu.input_gradient(dy, x, *case.vectors, None, None, relu)
    assert dx.stride() == constant_dx.stride() == x.stride()
    expected = cpu.input_gradient(full_dy, x, *case.vectors, case.mean_dy, case.mean_dy_xhat, relu)
    torch.testing.assert_close(dx, expected, **tolerance(dtype), equal_nan=True)
    assert torch.equal(constant_dx, cpu.input_gradient(full_dy, x, *case.vectors, None, None, relu))

    if values != "non-finite":
        sums = cpu.gradient_sums(dy, x, *case.vectors, relu)
        expected_sums = cpu.gradient_sums(full_dy, x, *case.vectors, relu)
        torch.testing.assert_close(sums, expected_sums, rtol=1e-5, atol=1e-5 * x.numel() ** 0.5)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("shape", "dtype"), POOLED_CASES, ids=str)
def test_max_pooling_in_one_call(shape: tuple[int, ...], dtype: torch.dtype, relu: bool) -> None:
    """What the single operations give; see `test_all_operations_of_a_pass_in_one_call`."""
    case, eps = Case(shape, dtype), 1e-3
    x = in_layout(case.x, "channels_last")
    y, mean, var, inv_std = cpu.forward(x, case.weight, case.bias, eps, relu, pool=True)
    near = tolerance(wide(dtype))
    torch.testing.assert_close((mean, var, inv_std), cpu.forward(x, case.weight, case.bias, eps)[1:], **near)
    assert torch.equal(y, cpu.normalize(x, mean, inv_std, case.weight, case.bias, relu, pool=True))
    assert torch.equal(y, cpu.inference(x, mean, var, case.weight, case.bias, eps, relu, pool=True))

    dy = random(tuple(y.shape), dtype, seed=1)
    dx, *sums = cpu.backward(dy, x, *case.vectors, relu)
    near["atol"] *= x.numel() ** 0.5
    torch.testing.assert_close(tuple(sums), cpu.gradient_sums(dy, x, *case.vectors, relu), **near)
    sum_dy, sum_dy_xhat = (total.double() / (x.numel() // shape[1]) for total in sums)
    expected = cpu.input_gradient(dy, x, *case.vectors, sum_dy, sum_dy_xhat, relu)
    torch.testing.assert_close(dx, expected, **tolerance(dtype))


@pytest.mark.parametrize("relu", [False, True])
def test_gradient_before_max_pooling(kernel: ModuleType, relu: bool) -> None:
    """The reference has it for double backward."""
    case = Case((4, 3, 5, 6), torch.float64)
    dy = random((4, 3, 2, 3), torch.float64, seed=1)
    y = reference.normalize(case.x, *case.vectors, relu)
    full_dy = unpool(dy, y)
    for x in (case.x, in_layout(case.x, "channels_last")):
        found = kernel.gradient_sums(dy, x, *case.vectors, relu)
        torch.testing.assert_close(found, reference.gradient_sums(full_dy, case.x, *case.vectors, relu))
        for mean_dy, mean_dy_xhat in ((case.mean_dy, case.mean_dy_xhat), (None, None)):
            dx = kernel.input_gradient(dy, x, *case.vectors, mean_dy, mean_dy_xhat, relu)
            expected = reference.input_gradient(full_dy, case.x, *case.vectors, mean_dy, mean_dy_xhat, relu)
            torch.testing.assert_close(dx, expected)


OPERATOR_CASES = [((6, 3), "contiguous"), ((70, 17), "transposed"), ((0, 3), "contiguous")] + [
    ((4, 3, 5, 2), layout) for layout in ("contiguous", "channels_last", "transposed", "strided", "sliced")
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("shape", "layout"), OPERATOR_CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_operators_are_what_they_tell_the_compiler(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    """PyTorch's own check: their outputs have the promised shapes, dtypes and strides and share no memory."""
    x, dy = in_layout(random(shape, dtype, 1), layout), random(shape, dtype, 2)
    ones = torch.ones(3 if shape[1] == 3 else 17)
    vectors, no_affine = (ones, ones, ones, ones), (ones, ones, None, None)
    cases: dict[Any, list[Any]] = {
        operators.moments: [(x,)],
        operators.normalize: [(x, *vectors, True), (x, *no_affine)],
        operators.inference: [(x, *vectors, 1e-5, True), (x, *no_affine, 1e-5)],
        operators.forward: [(x, ones, ones, 1e-5, True), (x, None, None, 1e-5)],
        operators.gradient_sums: [(dy, x, *vectors, True)],
        operators.input_gradient: [(dy, x, *vectors, ones, ones, True), (dy, x, *no_affine, None, None)],
        operators.backward: [(dy, x, *vectors, True), (dy, x, *no_affine)],
    }
    for operator, arguments in cases.items():
        for case in arguments:
            if x.numel() > 0 or operator in (operators.normalize, operators.inference, operators.input_gradient):
                torch.library.opcheck(operator, case)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (40, 20, 9, 9)], ids=str)
def test_the_operators_that_pool(shape: tuple[int, ...]) -> None:
    x = in_layout(random(shape, torch.float32), "channels_last")
    ones = torch.ones(shape[1])
    dy = random((*shape[:2], shape[2] // 2, shape[3] // 2), torch.float32, 2)
    torch.library.opcheck(operators.normalize, (x, ones, ones, ones, ones, True, True))
    torch.library.opcheck(operators.inference, (x, ones, ones, ones, ones, 1e-5, True, True))
    torch.library.opcheck(operators.forward, (x, ones, ones, 1e-5, True, True))
    torch.library.opcheck(operators.gradient_sums, (dy, x, ones, ones, ones, ones, True))
    torch.library.opcheck(operators.input_gradient, (dy, x, ones, ones, ones, ones, ones, ones, True))
    torch.library.opcheck(operators.backward, (dy, x, ones, ones, ones, ones, True))
