"""Masks: a masked batch is the batch that is cut to what counts, and weights are repetitions."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from labml_bn.norm import BatchNorm

SHAPES = [(7, 3), (4, 3, 5), (4, 3, 2, 3), (2, 3, 2, 2, 2)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"affine": False},
    {"unbiased": False},
    {"momentum": None},
    {"activation": "relu"},
    {"track_running_stats": False},
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_mask(shape: tuple[int, ...]) -> Tensor:
    """About two of three positions count."""
    return torch.rand(shape[0], *shape[2:], generator=torch.Generator().manual_seed(9)) < 0.66


def layers(channels: int, **options: Any) -> tuple[BatchNorm, BatchNorm]:
    torch.manual_seed(0)
    layer = BatchNorm(channels, eps=0.1, dtype=torch.float64, **options)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer, copy.deepcopy(layer)


def cut(x: Tensor, mask: Tensor) -> Tensor:
    """What counts, as [positions, channels]."""
    return x.movedim(1, -1)[mask]


def derivatives(layer: BatchNorm, x: Tensor, dy: Tensor, *mask: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The output, first derivatives, and those of a function of the gradient of x, by x, dy and the parameters."""
    x, dy = x.clone().requires_grad_(), dy.clone().requires_grad_()
    y = layer(x, *mask)
    first = torch.autograd.grad(y, [x, *layer.parameters()], dy, create_graph=True)
    second = torch.autograd.grad(first[0].tanh().sum(), [x, dy, *layer.parameters()], materialize_grads=True)
    return y.detach(), [d.detach() for d in first], list(second)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_mask_cuts_the_batch(shape: tuple[int, ...], options: dict[str, Any], training: bool) -> None:
    """Output, first and second derivatives and running statistics equal those of the batch of what counts.

    In the other positions there is NaN, in the input and in the gradient of the output.
    """
    masked, expected = layers(shape[1], **options)
    mask = random_mask(shape)
    for batch in range(2):
        x, dy = random(*shape, seed=batch), random(*shape, seed=batch + 10)
        spoiled = torch.where(mask.unsqueeze(1), x, math.nan)
        spoiled_dy = torch.where(mask.unsqueeze(1), dy, math.nan)
        y, first, second = derivatives(masked.train(training), spoiled, spoiled_dy, mask)
        y_cut, first_cut, second_cut = derivatives(expected.train(training), cut(x, mask), cut(dy, mask))
        pairs = [(y, y_cut), (first[0], first_cut[0]), *zip(second[:2], second_cut[:2], strict=True)]
        for whole, part in pairs:
            torch.testing.assert_close(cut(whole, mask), part)
            assert not whole.movedim(1, -1)[~mask].any()
        torch.testing.assert_close(first[1:], first_cut[1:])
        torch.testing.assert_close(second[2:], second_cut[2:])
        torch.testing.assert_close(masked.state_dict(), expected.state_dict())


@pytest.mark.parametrize("training", [True, False])
def test_weights_are_repetitions(training: bool) -> None:
    """Whole numbers as weights give the output and the variance of the batch with repeated samples."""
    masked, expected = layers(3, unbiased=False)
    x, repetitions = random(5, 3, 4), torch.tensor([2, 0, 1, 3, 1])
    weights = repetitions.double().view(5, 1, 1).expand(5, 1, 4)
    y = masked.train(training)(x, weights)
    repeated = expected.train(training)(x.repeat_interleave(repetitions, 0))
    torch.testing.assert_close(y.repeat_interleave(repetitions, 0), repeated)
    assert not y[1].any()
    torch.testing.assert_close(masked.state_dict(), expected.state_dict())


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e300])
def test_weighted_statistics(scale: float) -> None:
    """Mean, variance and the factor to the unbiased variance, in plain arithmetic; their scale does not matter."""
    x, w = random(6, 2), torch.tensor([0.5, 2.0, 0.0, 1.0, 0.25, 3.0], dtype=torch.float64)
    layer = BatchNorm(2, momentum=1.0, dtype=torch.float64)
    layer(x, mask=w * scale)
    for channel in range(2):
        values = [(value, weight) for value, weight in zip(x[:, channel].tolist(), w.tolist(), strict=True)]
        total = math.fsum(weight for _, weight in values)
        mean = math.fsum(value * weight for value, weight in values) / total
        var = math.fsum(weight * (value - mean) ** 2 for value, weight in values) / total
        squares = math.fsum(weight**2 for _, weight in values)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert layer.running_mean[channel].item() == pytest.approx(mean, rel=1e-12)
        assert layer.running_var[channel].item() == pytest.approx(var * total**2 / (total**2 - squares), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_dtypes(dtype: torch.dtype) -> None:
    """The statistics are computed in float32; y has the dtype of x."""
    x = (random(64, 3, 9) + 3).to(dtype)
    mask = random_mask(tuple(x.shape))
    layer, expected = BatchNorm(3), BatchNorm(3, dtype=torch.float64)
    y = layer(x.where(mask.unsqueeze(1), torch.inf), mask)
    assert y.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(cut(y, mask).double(), expected(cut(x.double(), mask)), rtol=eps, atol=8 * 1e-7)


@pytest.mark.parametrize(("offset", "scale"), [(1e3, 1.0), (0.0, 1e19), (1e18, 1e18)])
def test_large_values(offset: float, scale: float) -> None:
    """In float32, the error is the rounding error of the mean, and neither sums nor squares overflow."""
    x = (random(64, 2, 400) * scale + offset).float()
    mask = random_mask(tuple(x.shape))
    layer = BatchNorm(2)
    y = layer(x.where(mask.unsqueeze(1), torch.inf), mask)
    values = cut(x.double(), mask)
    expected = (values - values.mean(0)) / torch.sqrt(values.var(0, correction=0) + 1e-5)
    rounding = torch.finfo(torch.float32).eps * (8 + offset / scale / 3)
    torch.testing.assert_close(cut(y, mask).double(), expected, rtol=0, atol=rounding)
    assert layer.running_var is not None
    torch.testing.assert_close(layer.running_var.double(), 0.9 + 0.1 * values.var(0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_output_has_the_memory_format_of_the_input(memory_format: torch.memory_format, transposed: bool) -> None:
    """Whatever the strides of the mask are."""
    x = torch.randn(4, 3, 5, 6).contiguous(memory_format=memory_format)
    mask = torch.rand(4, 6, 5).transpose(1, 2) if transposed else torch.rand(5, 6).expand(4, 5, 6)
    for training in (True, False):
        y = BatchNorm(3).train(training)(x, mask)
        assert y.is_contiguous(memory_format=memory_format)


def test_infinity_that_counts() -> None:
    """The mean is infinite, as without a mask, and a batch in which nothing counts does not change that."""
    x = random(6, 2)
    x[0, 0] = torch.inf
    layer, expected = layers(2)
    for mask in (torch.ones(6), torch.zeros(6)):
        layer(x, mask)
        expected(x[mask.bool()])
        torch.testing.assert_close(layer.state_dict(), expected.state_dict(), equal_nan=True)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_empty_mask_is_an_empty_batch(momentum: float | None) -> None:
    layer, expected = layers(3, momentum=momentum)
    x = random(4, 3, 5)
    for batch in (x, torch.full_like(x, math.nan)):
        first = batch is x
        mask = torch.full((4, 5), first)
        y, gradients, second = derivatives(layer, batch, random(4, 3, 5, seed=1), mask)
        expected(x if first else x[:0])
        torch.testing.assert_close(layer.state_dict(), expected.state_dict())
    assert not any(tensor.any() for tensor in (y, *gradients, *second))


def test_no_positions_at_all() -> None:
    layer, expected = layers(3)
    layer(torch.empty(0, 3, 4, dtype=torch.float64), torch.empty(0, 4))
    expected(torch.empty(0, 3, 4, dtype=torch.float64))
    torch.testing.assert_close(layer.state_dict(), expected.state_dict())


@pytest.mark.parametrize("training", [True, False])
def test_everything_counts(training: bool) -> None:
    """With a mask of True the layer is the one without a mask, to rounding."""
    masked, expected = layers(3)
    x, dy = random(4, 3, 5), random(4, 3, 5, seed=1)
    mask = torch.ones(4, 1, 5, dtype=torch.bool)
    torch.testing.assert_close(
        derivatives(masked.train(training), x, dy, mask), derivatives(expected.train(training), x, dy)
    )
    torch.testing.assert_close(masked.state_dict(), expected.state_dict())


def test_weights_have_no_gradient() -> None:
    weights = torch.rand(4, 5, requires_grad=True)
    BatchNorm(3)(torch.randn(4, 3, 5, requires_grad=True), weights).sum().backward()
    assert weights.grad is None


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (
            torch.ones(4, dtype=torch.bool),
            ValueError,
            r"shape \(4, 5\) or \(4, 1, 5\) for an input of shape \(4, 3, 5\)",
        ),
        (torch.ones(4, 3, 5), ValueError, r"got \(4, 3, 5\)"),
        (torch.ones(1, 1, 5), ValueError, r"got \(1, 1, 5\)"),
        (torch.ones(4, 5, dtype=torch.int64), TypeError, r"torch.int64: for 0 and 1, use mask.bool\(\)"),
        (torch.ones(4, 5, dtype=torch.complex64), TypeError, "complex64"),
        (torch.ones(4, 5).tolist(), TypeError, "a mask that is a tensor, got one of type list"),
        (-torch.ones(4, 5), ValueError, r"not negative, got -1.0 in a mask of shape \(4, 5\)"),
        (torch.full((4, 5), math.nan), ValueError, "finite and not negative, got nan"),
        (torch.full((4, 5), math.inf), ValueError, "finite"),
        (torch.ones(4, 5, device="meta"), ValueError, "a mask on cpu, as the input, got one on meta"),
        (torch.arange(20).view(4, 5) == 7, ValueError, "of which the mask keeps one"),
    ],
    ids=str,
)
@pytest.mark.parametrize("ghost_batch_size", [None, 2])
def test_bad_masks(mask: Any, error: type[Exception], message: str, ghost_batch_size: int | None) -> None:
    """One sentence each, and the running statistics do not change."""
    layer = BatchNorm(3, ghost_batch_size=ghost_batch_size)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(error, match=message):
        layer(torch.randn(4, 3, 5), mask)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_max_pooling_refuses_a_mask() -> None:
    layer = BatchNorm(3, max_pool=2)
    with pytest.raises(ValueError, match="max_pool does not support a mask"):
        layer(torch.randn(4, 3, 4, 4), torch.ones(4, 4, 4))
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_compiled(kind: str, momentum: float | None) -> None:
    """One graph, for masks with whatever values, an empty one and one of a single position included."""
    torch.compiler.reset()
    layer, expected = layers(3, momentum=momentum)
    compiled = torch.compile(layer, fullgraph=True)
    some = random_mask((4, 3, 5))
    for mask in (some, torch.zeros_like(some), ~some):
        weights = mask if kind == "bool" else mask * torch.rand(4, 5)
        x, dy = random(4, 3, 5), random(4, 3, 5, seed=1)
        results = []
        for function in (compiled, expected):
            leaf = x.clone().requires_grad_()
            y = function(leaf, weights)
            parameters = (layer if function is compiled else expected).parameters()
            results.append((y, *torch.autograd.grad(y, [leaf, *parameters], dy)))
        torch.testing.assert_close(*results)
        torch.testing.assert_close(layer.state_dict(), expected.state_dict())
    compiled(x, torch.arange(20).view(4, 5) == 3)  # eagerly an error, which depends on the values
    assert all(tensor.isfinite().all() for tensor in layer.state_dict().values())


def test_vmapped_masks() -> None:
    """A stack of layers, each with a batch and a mask of its own."""
    members = [layers(3)[0] for _ in range(2)]
    expected = copy.deepcopy(members)
    parameters, buffers = torch.func.stack_module_state(members)
    x, mask = random(2, 4, 3, 5), torch.stack([random_mask((4, 3, 5)), torch.zeros(4, 5, dtype=torch.bool)])

    def call(parameters: Any, buffers: Any, x: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(members[0], (parameters, buffers), (x, mask))
        return y

    ys = torch.func.vmap(call)(parameters, buffers, x, mask)
    for index, layer in enumerate(expected):
        torch.testing.assert_close(ys[index], layer(x[index], mask[index]))
        for name, buffer in layer.named_buffers():
            torch.testing.assert_close(buffers[name][index], buffer)


def test_graphs_in_one_batch() -> None:
    """The use that is asked for most: graphs, or sequences, of different sizes, padded to the largest."""
    sizes, layer, expected = [3, 1, 5], *layers(2)
    graphs = [random(size, 2, seed=size) for size in sizes]
    padded = torch.nn.utils.rnn.pad_sequence(graphs, batch_first=True).transpose(1, 2)
    mask = torch.arange(5) < torch.tensor(sizes).unsqueeze(1)
    ys = layer(padded, mask)
    together = expected(torch.cat(graphs))
    for y, size, part in zip(ys, sizes, together.split(sizes), strict=True):
        torch.testing.assert_close(y[:, :size].T, part)
        assert not y[:, size:].any()
