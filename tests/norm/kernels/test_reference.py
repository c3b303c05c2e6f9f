"""The four operations of the reference kernel against their equations in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from labml_bn.norm.kernels.reference import gradient_sums, input_gradient, moments, normalize

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(6, 3), (4, 3, 5), (4, 3, 5, 2), (2, 3, 2, 4, 3)]


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0, mean: float = 0.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean).to(dtype)


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def channels(x: Tensor) -> Tensor:
    """The values in float64 as [channels, values]."""
    return x.double().transpose(0, 1).flatten(1)


def tolerance(dtype: torch.dtype) -> dict[str, Any]:
    return {"rtol": 16 * torch.finfo(dtype).eps, "atol": 16 * torch.finfo(dtype).eps}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_moments(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = random(shape, dtype, mean=1.0)
    mean, var = moments(x)
    assert mean.dtype == var.dtype == wide(dtype)
    torch.testing.assert_close(mean.double(), channels(x).mean(1), **tolerance(wide(dtype)))
    torch.testing.assert_close(var.double(), channels(x).var(1, correction=0), **tolerance(wide(dtype)))


@pytest.mark.parametrize("size", [1e2, 1e4, 1e5])
def test_moments_with_large_means(size: float) -> None:
    """The variance is accurate in float32; E[x²] − E[x]² has no correct digit at a mean of 1e4."""
    x = random((64, 3, 20, 20), torch.float32, mean=size)
    mean, var = moments(x)
    torch.testing.assert_close(mean.double(), channels(x).mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), channels(x).var(1, correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_moments_accumulate_in_float32(dtype: torch.dtype) -> None:
    """A sum of ones stops growing at 2,048 in float16 and at 256 in bfloat16."""
    mean, var = moments(torch.ones(100_000, 1, dtype=dtype))
    torch.testing.assert_close((mean, var), (torch.ones(1), torch.zeros(1)))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normalize(shape: tuple[int, ...], dtype: torch.dtype, affine: bool) -> None:
    x = random(shape, dtype)
    mean, inv_std = random((3,), wide(dtype), seed=1), random((3,), wide(dtype), seed=2).abs()
    weight, bias = (random((3,), wide(dtype), seed=3), random((3,), wide(dtype), seed=4)) if affine else (None, None)
    y = normalize(x, mean, inv_std, weight, bias)
    expected = (channels(x) - mean.double()[:, None]) * inv_std.double()[:, None]
    if weight is not None and bias is not None:
        expected = expected * weight.double()[:, None] + bias.double()[:, None]
    assert (y.shape, y.dtype) == (x.shape, dtype)
    torch.testing.assert_close(channels(y), expected, **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient_sums(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, dy = random(shape, dtype), random(shape, dtype, seed=1)
    mean, inv_std = random((3,), wide(dtype), seed=2), random((3,), wide(dtype), seed=3).abs()
    sum_dy, sum_dy_xhat = gradient_sums(dy, x, mean, inv_std)
    x_hat = (channels(x) - mean.double()[:, None]) * inv_std.double()[:, None]
    assert sum_dy.dtype == sum_dy_xhat.dtype == wide(dtype)
    torch.testing.assert_close(sum_dy.double(), channels(dy).sum(1), **tolerance(wide(dtype)))
    torch.testing.assert_close(sum_dy_xhat.double(), (channels(dy) * x_hat).sum(1), **tolerance(wide(dtype)))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_input_gradient(shape: tuple[int, ...], dtype: torch.dtype, affine: bool) -> None:
    x, dy = random(shape, dtype), random(shape, dtype, seed=1)
    mean, inv_std = random((3,), wide(dtype), seed=2), random((3,), wide(dtype), seed=3).abs()
    mean_dy, mean_dy_xhat = random((3,), wide(dtype), seed=4), random((3,), wide(dtype), seed=5)
    weight = random((3,), wide(dtype), seed=6) if affine else None
    dx = input_gradient(dy, x, mean, inv_std, weight, mean_dy, mean_dy_xhat)
    x_hat = (channels(x) - mean.double()[:, None]) * inv_std.double()[:, None]
    scale = inv_std.double() if weight is None else (weight * inv_std).double()
    expected = scale[:, None] * (channels(dy) - mean_dy.double()[:, None] - x_hat * mean_dy_xhat.double()[:, None])
    assert (dx.shape, dx.dtype) == (x.shape, dtype)
    torch.testing.assert_close(channels(dx), expected, **tolerance(dtype))


def test_channels_last() -> None:
    """The outputs of the input's size have its memory format."""
    x = random((2, 3, 4, 5), torch.float32).to(memory_format=torch.channels_last)
    vector = torch.ones(3)
    for output in (
        normalize(x, vector, vector, vector, vector),
        input_gradient(x, x, vector, vector, vector, vector, vector),
    ):
        assert output.is_contiguous(memory_format=torch.channels_last)
