"""`BatchNorm(max_pool=2)`: normalization, ReLU and max pooling in one pass, against the three one after the other."""

import copy
import io
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from labml_bn import BatchNorm, convert_batch_norm, estimate_population, fold, restore_batch_norm
from labml_bn.norm import kernels
from labml_bn.norm.functional import BatchStatistics, batch_norm
from labml_bn.norm.kernels import cpu
from tests.norm.conftest import saved_bytes

SHAPES = [(6, 3, 4, 4), (2, 5, 5, 7), (3, 2, 3, 2), (4, 1, 6, 6), (40, 20, 12, 12), (2, 33, 60, 5), (9, 50, 8, 8)]
EXAMPLE = (5, 3, 4, 5)


@pytest.fixture(autouse=True)
def _threads() -> Any:
    """Several threads, even if the tests run with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def pair(channels: int, activation: str | None = "relu", **arguments: Any) -> tuple[BatchNorm, nn.Sequential]:
    """The fused layer, and PyTorch's layer followed by ReLU and max pooling, in float64 and with the same state."""
    torch.manual_seed(0)
    fused = BatchNorm(channels, activation=activation, max_pool=2, dtype=torch.float64, **arguments)
    for parameter in fused.parameters():
        nn.init.normal_(parameter)
    norm = nn.BatchNorm2d(channels, dtype=torch.float64, **arguments)
    norm.load_state_dict(fused.state_dict())
    return fused, nn.Sequential(norm, nn.ReLU() if activation else nn.Identity(), nn.MaxPool2d(2))


def random(*shape: int, seed: int = 1, layout: torch.memory_format = torch.channels_last) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.contiguous(memory_format=layout)


def results(layer: nn.Module, x: Tensor) -> list[Tensor | None]:
    """The output, and the gradients of the input and the parameters."""
    x = x.detach().requires_grad_()
    y = layer(x)
    y.backward(random(*y.shape, seed=2).to(y.dtype))
    return [y.detach(), x.grad, *[parameter.grad for parameter in layer.parameters()]]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_one_after_the_other(training: bool, layout: torch.memory_format, shape: tuple[int, ...]) -> None:
    x = random(*shape, layout=layout)
    for activation, affine in itertools.product(("relu", None), (True, False)):
        fused, separate = pair(shape[1], activation, affine=affine)
        fused.train(training)
        separate.train(training)
        torch.testing.assert_close(results(fused, x), results(separate, x.contiguous()), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(list(fused.buffers()), list(separate.buffers()))
        with torch.no_grad():
            torch.testing.assert_close(fused(x), separate(x.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_narrower_dtypes(dtype: torch.dtype, training: bool) -> None:
    """Of values that may be rounded differently, the results in float32; the maxima are found before any rounding."""
    x = random(16, 20, 12, 12).to(dtype)
    fused, separate = pair(20)
    fused.train(training).to(torch.float32)
    separate.train(training)
    tolerance = 1e-4 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    found = [tensor for tensor in results(fused, x) if tensor is not None]
    assert [tensor.dtype for tensor in found] == [dtype, dtype, torch.float32, torch.float32]
    for one, other in zip(found, results(separate, x.double()), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


def test_one_pass_where_it_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    """In channels_last on the CPU, as seen from PyTorch's max pooling not being called."""
    layer, x = BatchNorm(3, max_pool=2), torch.randn(EXAMPLE)
    called = []
    max_pool2d = functional.max_pool2d

    def observed(*arguments: Any) -> Any:
        called.append(True)
        return max_pool2d(*arguments)

    monkeypatch.setattr(functional, "max_pool2d", observed)
    for training in (True, False):
        layer.train(training)
        y = layer(x.contiguous(memory_format=torch.channels_last))
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert not called
        layer(x)
        assert called.pop()
    batch_norm(
        x.contiguous(memory_format=torch.channels_last), None, None, 1e-5, max_pool=2, statistics=BatchStatistics()
    )
    assert called.pop()


def test_when_the_cpu_kernel_can_pool() -> None:
    x = torch.randn(EXAMPLE).contiguous(memory_format=torch.channels_last)
    assert kernels.can_pool(x)
    with torch.no_grad():
        assert kernels.can_pool(x)
    assert not kernels.can_pool(x.contiguous())
    assert not kernels.can_pool(x.to("meta"))
    assert not kernels.can_pool(x[:0])
    assert not kernels.can_pool(x[:, :, :, 0])
    assert not kernels.can_pool(x[:, :1].contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["relu", None])
def test_first_and_second_derivatives(training: bool, activation: str | None) -> None:
    fused, _ = pair(3, activation)
    fused.train(training)
    x = random(*EXAMPLE).requires_grad_()
    assert torch.autograd.gradcheck(fused, (x,))
    assert torch.autograd.gradgradcheck(fused, (x,))
    y, parameters = fused(x), list(fused.parameters())
    dy = random(*y.shape, seed=2)
    twice = torch.autograd.grad(y, [x, *parameters], dy, create_graph=True)
    torch.testing.assert_close(
        [gradient.detach() for gradient in twice], list(torch.autograd.grad(y, [x, *parameters], dy))
    )


def test_gradients_of_the_parameters_alone() -> None:
    fused, separate = pair(3)
    x = random(*EXAMPLE)
    for layer in (fused, separate):
        y = layer(x)
        y.backward(random(*y.shape, seed=2))
    for one, other in zip(fused.parameters(), separate.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_input_restored_in_another_layout(layout: torch.memory_format) -> None:
    """Hooks of autograd can change the strides of what is saved, as `save_on_cpu` does."""
    fused, separate = pair(3)
    x = random(*EXAMPLE)

    def restore(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=layout) if tensor.dim() == 4 else tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, restore):
        torch.testing.assert_close(results(fused, x), results(separate, x.contiguous()))


def test_what_is_saved_for_the_backward_pass() -> None:
    """Per-channel vectors; PyTorch's layers save y and where the maxima are, in int64: half the bytes of the input."""
    x = random(16, 8, 10, 10).float().requires_grad_()
    size = x.untyped_storage().nbytes()
    assert saved_bytes(BatchNorm(8, activation="relu", max_pool=2), x) <= 10 * 8 * 4
    assert saved_bytes(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)), x) >= 1.5 * size


def test_running_statistics_are_those_without_pooling() -> None:
    """An odd last row or column is not pooled, but counts."""
    x = random(6, 20, 7, 9).float()
    pooled, plain = BatchNorm(20, max_pool=2), BatchNorm(20)
    pooled(x)
    plain(x)
    torch.testing.assert_close(list(pooled.buffers()), list(plain.buffers()), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(training: bool) -> None:
    layer = BatchNorm(3, activation="relu", max_pool=2).train(training)
    x = torch.empty(0, 3, 4, 5, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == (0, 3, 2, 2)
    assert x.grad is not None
    assert x.grad.shape == x.shape


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_compile(training: bool) -> None:
    fused, separate = pair(3)
    fused.train(training)
    separate.train(training)
    x = random(8, *EXAMPLE[1:])
    compiled: Any = torch.compile(fused, fullgraph=True)
    torch.testing.assert_close(results(compiled, x), results(separate, x.contiguous()))
    torch.testing.assert_close(list(fused.buffers()), list(separate.buffers()))


@pytest.mark.slow
def test_export() -> None:
    fused, separate = pair(3)
    x = random(*EXAMPLE)
    exported = torch.export.export(fused.eval(), (x,), dynamic_shapes={"input": {0: torch.export.Dim("batch", min=2)}})
    x = random(9, *EXAMPLE[1:], seed=3)
    torch.testing.assert_close(exported.module()(x), separate.eval()(x))


def test_vmap() -> None:
    """Over an ensemble, with a gradient."""
    fused, _ = pair(3)
    fused.eval()
    xs = random(4 * EXAMPLE[0], *EXAMPLE[1:]).unflatten(0, (4, -1))

    def loss(x: Tensor) -> Any:
        return fused(x).square().sum()

    found = torch.func.vmap(torch.func.grad(loss))(xs)
    for x, gradient in zip(xs, found, strict=True):
        x = x.detach().requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(loss(x), x)[0])


def test_checkpointing() -> None:
    fused, separate = pair(3)
    x = random(*EXAMPLE)

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = fused

        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.layer, x, use_reentrant=False)

    torch.testing.assert_close(results(Checkpointed(), x), results(separate, x.contiguous()))


def test_meta_device() -> None:
    layer = BatchNorm(3, max_pool=2, device="meta")
    assert layer(torch.empty(EXAMPLE, device="meta")).shape == (5, 3, 2, 2)


def test_state_and_copies() -> None:
    fused, separate = pair(3)
    assert fused.state_dict().keys() == nn.BatchNorm2d(3).state_dict().keys()
    saved = io.BytesIO()
    torch.save(fused, saved)
    saved.seek(0)
    x = random(*EXAMPLE)
    for same in (copy.deepcopy(fused), torch.load(saved, weights_only=False)):
        torch.testing.assert_close(same(x), separate(x))
    assert repr(fused) == "BatchNorm(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, " + (
        "activation='relu', max_pool=2)"
    )


def test_layers_pickled_by_an_earlier_version() -> None:
    layer = BatchNorm(3)
    del layer.max_pool
    assert layer(torch.randn(EXAMPLE)).shape == EXAMPLE


@pytest.mark.parametrize("activation", ["relu", None])
def test_folding_keeps_the_pooling(activation: str | None) -> None:
    torch.manual_seed(0)
    norm = BatchNorm(4, activation=activation, max_pool=2)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.Conv2d(4, 3, 1)).double()
    batches = [random(8, 2, 7, 6, seed=seed) for seed in (1, 2)]
    estimate_population(model, batches)
    folded = fold(model.eval())
    assert not any(isinstance(layer, BatchNorm) for layer in folded.modules())
    torch.testing.assert_close(folded(batches[0]), model(batches[0]))


def test_converting() -> None:
    model = nn.Sequential(BatchNorm(3, max_pool=2))
    with pytest.raises(ValueError, match="cannot restore layer '0': PyTorch's layers do not support max pooling"):
        restore_batch_norm(model, torch.zeros(EXAMPLE))
    converted = convert_batch_norm(nn.Sequential(nn.BatchNorm2d(3)))
    assert isinstance(converted[0], BatchNorm)
    assert converted[0].max_pool is None
    assert type(restore_batch_norm(converted)[0]) is nn.BatchNorm2d


@pytest.mark.parametrize("size", [0, 1, 3, "2"])
def test_unknown_sizes(size: Any) -> None:
    with pytest.raises(ValueError, match="max_pool must be one of None, 2, got "):
        BatchNorm(3, max_pool=size)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 8), (4, 3, 1, 8), (4, 3, 8, 1), (4, 3, 4, 4, 4)], ids=str)
def test_inputs_that_cannot_be_pooled(shape: tuple[int, ...]) -> None:
    layer = BatchNorm(3, max_pool=2)
    with pytest.raises(ValueError, match=r"expected an input of shape .batch, channels, height, width. with at least"):
        layer(torch.randn(shape))
    assert layer.num_batches_tracked == 0


def test_a_nan_in_evaluation() -> None:
    """It is the maximum, and gets the gradient; other channels and windows have theirs."""
    layer = BatchNorm(2, max_pool=2).eval()
    x = torch.randn(3, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    x[0, 0, 1, 0] = torch.nan
    assert cpu.can_pool(x)
    y, dx, *_ = results(layer, x)
    expected, expected_dx, *_ = results(nn.Sequential(nn.BatchNorm2d(2).eval(), nn.MaxPool2d(2)), x.contiguous())
    torch.testing.assert_close((y, dx), (expected, expected_dx), equal_nan=True)
