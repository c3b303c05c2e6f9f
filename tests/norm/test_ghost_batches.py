"""Ghost batches: each part of the batch is normalized as a batch of its own, by plain arithmetic."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from labml_bn.norm import BatchNorm
from labml_bn.norm.ghost_batches import ghost_batches

EPS, MOMENTUM = 0.1, 0.25


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalize [samples, channels, positions] by its own statistics, in differentiable operations."""
    centered = x - x.mean((0, 2), keepdim=True)
    y = centered / torch.sqrt(centered.square().mean((0, 2), keepdim=True) + EPS)
    return weight.view(1, -1, 1) * y + bias.view(1, -1, 1)


@pytest.mark.parametrize(
    ("samples", "size", "expected"),
    [
        (64, 32, [32, 32]),
        (33, 32, [17, 16]),
        (10, 4, [4, 3, 3]),
        (5, 8, [5]),
        (4, 1, [1, 1, 1, 1]),
        (0, 4, [0]),
    ],
    ids=str,
)
def test_parts(samples: int, size: int, expected: list[int]) -> None:
    """No part is larger than the size, all are nearly the same, and together they are the batch in its order."""
    x, weights = random(samples, 3, 2), random(samples, 1, 2)
    parts = ghost_batches(x, weights, size)
    assert [len(part) for part, _ in parts] == expected
    assert torch.equal(torch.cat([part for part, _ in parts]), x)
    assert torch.equal(torch.cat([part for _, part in parts if part is not None]), weights)


@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"momentum": None}], ids=str)
def test_against_plain_arithmetic(options: dict[str, Any]) -> None:
    """Output, gradients, second derivatives, and running statistics that each part updates in its turn."""
    torch.manual_seed(0)
    layer = BatchNorm(3, EPS, **{"momentum": MOMENTUM, **options}, ghost_batch_size=4, dtype=torch.float64)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x, dy = random(10, 3, 2).requires_grad_(), random(10, 3, 2, seed=1)
    parts = x.split([4, 3, 3])
    expected = torch.cat([plain(part, layer.weight, layer.bias) for part in parts])
    if options.get("activation"):
        expected = expected.relu()
    y = layer(x)
    torch.testing.assert_close(y, expected)

    results = []
    for output in (y, expected):
        first = torch.autograd.grad(output, [x, layer.weight, layer.bias], dy, create_graph=True)
        results.append((first, torch.autograd.grad(first[0].tanh().sum(), [x, layer.weight])))
    torch.testing.assert_close(*results)

    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for number, part in enumerate(parts, 1):
        share = 1 / number if layer.momentum is None else MOMENTUM
        values = part.detach().transpose(0, 1).flatten(1)
        mean += share * (values.mean(1) - mean)
        var += share * (values.var(1) - var)
    torch.testing.assert_close((layer.running_mean, layer.running_var), (mean, var))
    assert layer.num_batches_tracked == 3


def test_evaluation_has_no_ghost_batches() -> None:
    layer = BatchNorm(3, ghost_batch_size=2)
    layer(torch.randn(8, 3))
    plain_layer = BatchNorm(3)
    plain_layer.load_state_dict(layer.state_dict())
    x = torch.randn(5, 3)
    torch.testing.assert_close(layer.eval()(x), plain_layer.eval()(x))


def test_with_a_mask() -> None:
    """Each part has its part of the mask."""
    layer, expected = (BatchNorm(3, EPS, ghost_batch_size=size, dtype=torch.float64) for size in (3, None))
    x, mask = random(6, 3, 4), torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    y = layer(x.where(mask.unsqueeze(1), math.nan), mask)
    torch.testing.assert_close(y, torch.cat([expected(x[:3], mask[:3]), expected(x[3:], mask[3:])]))
    torch.testing.assert_close(layer.state_dict(), expected.state_dict())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_has_the_memory_format_of_the_input(memory_format: torch.memory_format) -> None:
    """It is put together at once, not added up from one tensor of the size of the batch for each part."""
    x = torch.randn(6, 3, 4, 4).contiguous(memory_format=memory_format).requires_grad_()
    (dx,) = torch.autograd.grad(BatchNorm(3, ghost_batch_size=2)(x), x, torch.randn(6, 3, 4, 4))
    assert dx.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_and_max_pooling(memory_format: torch.memory_format) -> None:
    x = torch.randn(6, 3, 4, 4).contiguous(memory_format=memory_format)
    options: Any = {"activation": "relu", "max_pool": 2}
    y = BatchNorm(3, **options, ghost_batch_size=3)(x)
    assert y.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(y, torch.cat([BatchNorm(3, **options)(part) for part in x.split(3)]))


@pytest.mark.parametrize("size", [0, -1, 2.0, "4", 0.5, True])
def test_bad_sizes(size: Any) -> None:
    with pytest.raises(ValueError, match="ghost_batch_size must be an integer of at least 1, or None"):
        BatchNorm(3, ghost_batch_size=size)


def test_a_part_of_one_value() -> None:
    """Three samples in parts of at most two: the second would have no variance. Nothing is changed by the first."""
    layer = BatchNorm(4, ghost_batch_size=2)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(
        ValueError, match=r"one value per channel .* shape \(1, 4\): use a larger batch or ghost_batch_size"
    ):
        layer(torch.randn(3, 4))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_repr_copy_and_compile() -> None:
    layer = copy.deepcopy(BatchNorm(3, ghost_batch_size=4))
    assert "ghost_batch_size=4" in repr(layer)
    expected = copy.deepcopy(layer)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True)
    for samples in (8, 10):
        x = torch.randn(samples, 3)
        torch.testing.assert_close(compiled(x), expected(x))
    torch.testing.assert_close(layer.state_dict(), expected.state_dict())
