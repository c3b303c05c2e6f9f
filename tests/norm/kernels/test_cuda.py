"""The Triton kernels against their equations in float64.

On a machine with a GPU they run on it. Otherwise Triton's interpreter runs them on CPU tensors. It is chosen by an
environment variable when Triton is imported, and would affect all other users of Triton in the process. So without a
GPU, one test here runs this file again in a process of its own, where the variable is set.

The interpreter checks the arithmetic and the indices. That the kernels compile is a test of its own: the compiler for
NVIDIA GPUs is a part of Triton and needs none.
"""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

triton: Any = pytest.importorskip("triton")

from labml_bn.norm.kernels import cuda  # noqa: E402
from labml_bn.norm.kernels.layout import memory_format  # noqa: E402

DEVICE = "cpu" if cuda.INTERPRETED or not torch.cuda.is_available() else "cuda"
RUNS_HERE = cuda.INTERPRETED or DEVICE == "cuda"

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SHAPES = [
    (4, 8, 12, 12),  # a multiple of 16 values in each image
    (4, 17, 5, 5),
    (64, 500),
    (3, 5),
    (2, 3, 7),
    (2, 4, 3, 3, 3),
    (7, 1, 9, 11),  # one channel
    (1, 3, 4, 4),  # one image
    (5, 33, 1, 1),
    (1, 1),
]
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
CASES = [
    *((shape, "contiguous", dtype) for shape in SHAPES for dtype in DTYPES),
    *((shape, "channels_last", dtype) for shape in SHAPES if len(shape) in FORMATS for dtype in DTYPES[:2]),
]

Operands = dict[str, Any]


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0, mean: float = 0.0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean
    return values.to(dtype).to(DEVICE)


def laid_out(x: Tensor, layout: str) -> Tensor:
    return x.to(memory_format=FORMATS[x.dim()]) if layout == "channels_last" else x.contiguous()


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def channels(x: Tensor) -> Tensor:
    """The values in float64 as [channels, values]."""
    return x.double().transpose(0, 1).flatten(1).contiguous()


def operands(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Operands:
    """The arguments of `gradient_sums`, except `relu`."""
    c = shape[1]
    vectors = [random((c,), wide(dtype), seed) for seed in range(2, 6)]
    return {
        "dy": laid_out(random(shape, dtype, 1), layout),
        "x": laid_out(random(shape, dtype, 0, mean=0.5), layout),
        "mean": vectors[0],
        "inv_std": vectors[1].abs() + 0.1,
        "weight": vectors[2],
        "bias": vectors[3],
    }


def forward(x: Tensor, mean: Tensor, inv_std: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """y as [channels, values], in float64."""
    x_hat = (channels(x) - mean.double()[:, None]) * inv_std.double()[:, None]
    y = x_hat if weight is None else x_hat * weight.double()[:, None]
    return y if bias is None else y + bias.double()[:, None]


def assert_near(actual: Tensor, expected: Tensor, size: Tensor | float, dtype: torch.dtype) -> None:
    """Compare with a tolerance of 16 rounding errors of numbers of this size."""
    assert actual.shape == expected.shape
    assert torch.isfinite(actual).all()
    precision = torch.finfo(dtype)
    excess = (actual.double() - expected).abs() - 16 * precision.eps * (size + precision.smallest_normal)
    assert excess.max().item() <= 0


def check_moments(x: Tensor) -> None:
    mean, var = cuda.moments(x)
    assert mean.dtype == var.dtype == wide(x.dtype)
    values = channels(x)
    assert_near(mean, values.mean(1), values.abs().amax(1), wide(x.dtype))
    assert_near(var, values.var(1, correction=0), values.var(1, correction=0) + 1e-30, wide(x.dtype))


def check_others(dy: Tensor, x: Tensor, relu: bool, constant_statistics: bool = False, **vectors: Any) -> None:
    """Check normalize, gradient_sums and input_gradient."""
    inv_std, weight = vectors["inv_std"].double(), vectors["weight"]
    expected = forward(x, **vectors)
    size = forward(x, **vectors).abs() + (0 if vectors["bias"] is None else vectors["bias"].double().abs()[:, None])
    plain = cuda.normalize(x, **vectors)
    assert (plain.shape, plain.dtype) == (x.shape, x.dtype)
    assert_near(channels(plain), expected, size, x.dtype)
    y = cuda.normalize(x, **vectors, relu=relu)
    torch.testing.assert_close(y, plain.relu() if relu else plain, rtol=0, atol=0)

    # Near 0, the sign of y is a matter of rounding: the mask must be that of the kernel's own forward pass.
    g = channels(dy) * (channels(plain) > 0) if relu else channels(dy)
    x_hat = (channels(x) - vectors["mean"].double()[:, None]) * inv_std[:, None]
    sums = cuda.gradient_sums(dy, x, **vectors, relu=relu)
    for actual, terms in zip(sums, (g, g * x_hat), strict=True):
        assert actual.dtype == wide(x.dtype)
        assert_near(actual, terms.sum(1), terms.abs().sum(1), wide(x.dtype))

    scale = inv_std if weight is None else inv_std * weight.double()
    means: Operands = {"mean_dy": None, "mean_dy_xhat": None}
    terms = [g]
    if not constant_statistics:
        mean_dy, mean_dy_xhat = (random((x.shape[1],), wide(x.dtype), seed) for seed in (6, 7))
        means = {"mean_dy": mean_dy, "mean_dy_xhat": mean_dy_xhat}
        terms += [-mean_dy.double()[:, None] + 0 * g, -x_hat * mean_dy_xhat.double()[:, None]]
    dx = cuda.input_gradient(dy, x, **vectors, **means, relu=relu)
    expected = scale[:, None] * torch.stack(terms).sum(0)
    assert (dx.shape, dx.dtype) == (x.shape, x.dtype)
    assert_near(channels(dx), expected, scale.abs()[:, None] * torch.stack(terms).abs().sum(0), x.dtype)


def all_operations(dy: Tensor, x: Tensor, **vectors: Any) -> tuple[Tensor, ...]:
    sums = cuda.gradient_sums(dy, x, **vectors, relu=True)
    dx = cuda.input_gradient(dy, x, **vectors, mean_dy=sums[0], mean_dy_xhat=sums[1], relu=True)
    return (*cuda.moments(x), cuda.normalize(x, **vectors, relu=True), *sums, dx)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles per program, and several programs per channel, without large tensors."""
    monkeypatch.setattr(cuda, "TILE", 64)
    monkeypatch.setattr(cuda, "PROGRAMS", 6)
    monkeypatch.setattr(cuda, "FEW_TILES", 1)
    monkeypatch.setattr(cuda, "make_plan", cuda.make_plan.__wrapped__)


class TestOperations:
    __test__ = RUNS_HERE

    @pytest.mark.parametrize(("shape", "layout", "dtype"), CASES, ids=str)
    def test_all(self, shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
        values = operands(shape, layout, dtype)
        assert cuda.is_supported(values["x"], *values.values())
        check_moments(values["x"])
        check_others(**values, relu=True)

    @pytest.mark.parametrize("relu", [False, True])
    @pytest.mark.parametrize("missing", [(), ("weight",), ("bias",), ("weight", "bias")], ids=str)
    def test_optional_arguments(self, missing: tuple[str, ...], relu: bool) -> None:
        values: Operands = {**operands((2, 5, 3, 4), "contiguous", torch.float32), **dict.fromkeys(missing)}
        for constant_statistics in (False, True):
            check_others(**values, relu=relu, constant_statistics=constant_statistics)

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.usefixtures("small_tiles")
    def test_several_parts(self, dtype: torch.dtype, layout: str) -> None:
        values = operands((5, 3, 7, 8), layout, dtype)
        plan = cuda.prepare(values["x"])[1]
        assert plan.steps > 1
        assert plan.parts > 1
        assert plan.parts * plan.steps * plan.tile["ROWS"] > 5 * 7 * 8  # the last part is not full
        check_moments(values["x"])
        check_others(**values, relu=True)

    @pytest.mark.usefixtures("small_tiles")
    def test_large_indices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The indices of large tensors have 64 bits."""
        monkeypatch.setattr(cuda, "LARGE", 0)
        for layout in ("contiguous", "channels_last"):
            values = operands((5, 3, 7, 8), layout, torch.float32)
            assert cuda.prepare(values["x"])[1].tile["WIDE"]
            check_moments(values["x"])
            check_others(**values, relu=True)

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    @pytest.mark.parametrize("size", [1e4, 1e6])
    @pytest.mark.parametrize("tiles", ["default", "small"])
    def test_moments_with_large_means(
        self, size: float, layout: str, tiles: str, request: pytest.FixtureRequest
    ) -> None:
        """E[x²] − E[x]² has no correct digit in float32, and the mean of 10⁶ must not be rounded before the end."""
        if tiles == "small":
            request.getfixturevalue("small_tiles")
        x = laid_out(random((8, 3, 16, 16), torch.float32, mean=size), layout)
        mean, var = cuda.moments(x)
        torch.testing.assert_close(mean.double(), channels(x).mean(1), rtol=1e-7, atol=0)
        torch.testing.assert_close(var.double(), channels(x).var(1, correction=0), rtol=1e-6, atol=0)

    @pytest.mark.usefixtures("small_tiles")
    def test_moments_with_an_outlier_first(self) -> None:
        """The first value of a channel has no influence on the precision."""
        x = random((300, 2), torch.float32, mean=1.0)
        x[0] = 1e3
        check_moments(x)

    def test_constant_channels(self) -> None:
        x = torch.full((40, 3, 5), 0.1, device=DEVICE)
        mean, var = cuda.moments(x)
        assert mean.tolist() == x[0, :, 0].tolist()
        assert var.tolist() == [0, 0, 0]

    @pytest.mark.parametrize("tiles", ["default", "small"])
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    @pytest.mark.parametrize(
        ("places", "values", "mean_of_them"),
        [
            ([0], [math.inf], math.inf),
            ([279], [-math.inf], -math.inf),
            ([0, 150], [math.inf, math.inf], math.inf),
            (slice(None), [math.inf], math.inf),
            ([100, 200], [math.inf, -math.inf], math.nan),
            ([0, 200], [math.nan, math.inf], math.nan),
        ],
        ids=str,
    )
    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # in NumPy, as which the interpreter computes
    def test_the_mean_of_infinite_values(
        self,
        places: Any,
        values: list[float],
        mean_of_them: float,
        layout: str,
        tiles: str,
        request: pytest.FixtureRequest,
    ) -> None:
        """It is infinite if all of them are equal, in every part. Other channels are not affected."""
        if tiles == "small":
            request.getfixturevalue("small_tiles")
        x = random((5, 3, 7, 8), torch.float32)
        before = cuda.moments(laid_out(x, layout))
        channel = x[:, 1].clone().flatten()
        channel[places] = torch.tensor(values, device=DEVICE)
        x[:, 1] = channel.view_as(x[:, 1])
        mean, var = cuda.moments(laid_out(x, layout))
        torch.testing.assert_close(mean[1].item(), mean_of_them, equal_nan=True)
        assert var[1].isnan()
        assert mean[[0, 2]].equal(before[0][[0, 2]])
        assert var[[0, 2]].equal(before[1][[0, 2]])

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    @pytest.mark.usefixtures("small_tiles")
    def test_repeatable(self, layout: str) -> None:
        values = operands((5, 3, 7, 8), layout, torch.float32)
        for first, second in zip(all_operations(**values), all_operations(**values), strict=True):
            assert torch.equal(first, second)

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    def test_layout_of_outputs(self, layout: str) -> None:
        """The outputs have the layout of x, and dy can have any."""
        values = operands((2, 6, 3, 4), layout, torch.float32)
        other = "contiguous" if layout == "channels_last" else "channels_last"
        expected = all_operations(**values)
        values["dy"] = laid_out(values["dy"], other)
        for actual, output in zip(all_operations(**values), expected, strict=True):
            assert torch.equal(actual, output)
            assert output.dim() == 1 or output.stride() == values["x"].stride()

    @pytest.mark.parametrize("strided", ["sliced", "transposed", "expanded", "channels_last_slice"])
    def test_strided(self, strided: str) -> None:
        x = {
            "sliced": random((4, 6, 5, 8), torch.float32)[::2, ::2, :, ::2],
            "transposed": random((4, 3, 5, 2), torch.float32).transpose(0, 3),
            "expanded": random((2, 3, 5, 1), torch.float32).expand(2, 3, 5, 4),
            "channels_last_slice": laid_out(random((2, 6, 5, 4), torch.float32), "channels_last")[:, 1:4],
        }[strided]
        values = operands((2, 3, 5, 4), "contiguous", torch.float32)
        for tensors in ({"x": x}, {"dy": x}, {"x": x, "dy": x}):
            check_others(**{**values, **tensors}, relu=True)
        check_moments(x)
        ones = torch.ones(3, device=DEVICE)
        dx = cuda.input_gradient(values["dy"], x, ones, ones, ones, ones, ones, ones)
        for output in (cuda.normalize(x, ones, ones, ones, ones), dx):
            assert output.is_contiguous(memory_format=memory_format(x))

    def test_strided_vectors(self) -> None:
        values = operands((2, 3, 5, 4), "contiguous", torch.float32)
        values["weight"] = torch.full((1,), 2.0, device=DEVICE).expand(3)
        values["bias"] = random((6,), torch.float32)[::2]
        check_others(**values, relu=True)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
    def test_dtype_of_weight_and_bias(self, dtype: torch.dtype) -> None:
        values = operands((2, 3, 5, 4), "contiguous", torch.float32)
        for name in ("weight", "bias"):
            values[name] = values[name].to(dtype)
        check_others(**values, relu=True)

    def test_relu_keeps_nan(self) -> None:
        x = torch.tensor([[-1.0], [math.nan], [1.0], [-0.0]], device=DEVICE)
        one = torch.ones(1, device=DEVICE)
        y = cuda.normalize(x, 0 * one, one, None, None, relu=True)
        torch.testing.assert_close(y, x.relu(), equal_nan=True)
        sum_dy, _ = cuda.gradient_sums(torch.ones_like(x), x, 0 * one, one, None, None, relu=True)
        assert sum_dy.item() == 1  # the gradient passes only where y > 0

    def test_relu_of_outputs_that_are_rounded_to_0(self) -> None:
        """The gradient does not pass where the output, which float16 rounds to 0, was positive before."""
        x = torch.tensor([[1.0], [2.0]], device=DEVICE, dtype=torch.float16)
        one = torch.ones(1, device=DEVICE)
        values: Operands = {"mean": 0 * one, "inv_std": one, "weight": 2e-8 * one, "bias": None, "relu": True}
        assert cuda.normalize(x, **values)[:, 0].gt(0).tolist() == [False, True]
        assert cuda.gradient_sums(torch.ones_like(x), x, **values)[0].item() == 1

    def test_is_supported(self) -> None:
        class Subclass(Tensor):
            pass

        x = random((2, 3, 4, 5), torch.float32)
        assert cuda.is_supported(x, torch.nn.Parameter(x), None)
        assert cuda.is_supported(laid_out(x, "channels_last"))
        assert not cuda.is_supported(x[..., ::2])
        assert not cuda.is_supported(x[:0])
        assert not cuda.is_supported(x[0, 0, 0])
        assert not cuda.is_supported(x.int())
        assert not cuda.is_supported(x, x.to("meta"))
        assert not cuda.is_supported(x.as_subclass(Subclass))
        seen: list[bool] = []
        torch.func.vmap(lambda row: seen.append(cuda.is_supported(row)) or row)(x)  # type: ignore[func-returns-value]
        assert seen == [False]


if not RUNS_HERE:

    def test_operations_in_the_interpreter() -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__]
        environment = {**os.environ, "TRITON_INTERPRET": "1"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


if not cuda.INTERPRETED:
    KERNELS = {"moments_kernel", "merge_kernel", "normalize_kernel", "gradient_sums_kernel", "input_gradient_kernel"}
    TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}

    @pytest.mark.parametrize("dtype", TYPES, ids=str)
    @pytest.mark.parametrize("affine", [True, False])
    @pytest.mark.parametrize(
        ("shape", "layout"), [((64, 20, 24, 24), "contiguous"), ((8, 24, 20, 20), "channels_last")]
    )
    def test_compiled(
        shape: tuple[int, ...],
        layout: str,
        affine: bool,
        dtype: torch.dtype,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        """The kernels compile, and load 16 bytes at once."""
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        compiled: list[tuple[str, str]] = []

        def compile_only(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
            types, values, multiples = {}, {}, {}
            given = {**dict(zip(kernel.arg_names, arguments, strict=False)), **constants}
            for i, parameter in enumerate(kernel.params):
                name, value = parameter.name, given[parameter.name]
                if isinstance(value, Tensor):
                    types[name], multiples[i,] = TYPES[value.dtype], [["tt.divisibility", 16]]
                elif parameter.is_constexpr or value is None or (value == 1 and not parameter.do_not_specialize):
                    types[name], values[name] = "constexpr", value
                else:
                    types[name] = "i32"
            source = triton.compiler.ASTSource(kernel, types, values, multiples)
            target = triton.backends.compiler.GPUTarget("cuda", 80, 32)
            options = {"num_warps": cuda.WARPS, "enable_fp_fusion": True}
            compiled.append((kernel.__name__, triton.compile(source, target, options).asm["ptx"]))

        monkeypatch.setattr(cuda, "launch", compile_only)
        x = laid_out(torch.empty(shape, dtype=dtype), layout)
        mean = inv_std = torch.empty(shape[1])
        weight = bias = mean if affine else None
        all_operations(x, x, mean=mean, inv_std=inv_std, weight=weight, bias=bias)
        cuda.input_gradient(x, x, mean, inv_std, weight, bias, None, None)
        assert {name for name, _ in compiled} == KERNELS
        for name, code in compiled:
            assert "ld.global.v4" in code or name == "merge_kernel", name
