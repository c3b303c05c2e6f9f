"""`BatchNorm(activation="relu")`: normalization and ReLU in one pass, against the two one after the other."""

import copy
import io

import pytest
import torch
from torch import nn

from labml_bn import BatchNorm, convert_batch_norm, estimate_population, fold, restore_batch_norm
from tests.norm.conftest import saved_bytes


def pair(channels: int, dtype: torch.dtype = torch.float64) -> tuple[BatchNorm, nn.Sequential]:
    """The fused layer, and this layer followed by a ReLU, with the same state."""
    torch.manual_seed(0)
    fused = BatchNorm(channels, activation="relu", dtype=dtype)
    nn.init.normal_(fused.weight)
    nn.init.normal_(fused.bias)
    separate = nn.Sequential(BatchNorm(channels, dtype=dtype), nn.ReLU())
    separate[0].load_state_dict(fused.state_dict())
    return fused, separate


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (4, 3, 5, 2), (40, 20, 12, 12)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_as_one_after_the_other(training: bool, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    fused, separate = pair(shape[1], torch.promote_types(dtype, torch.float32))
    fused.train(training)
    separate.train(training)
    results = []
    for layer in (fused, separate):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()
        y = layer(x)
        y.backward(torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=dtype))
        results.append([y.detach(), x.grad, *[parameter.grad for parameter in layer.parameters()]])
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(list(fused.buffers()), list(separate.buffers()))


@pytest.mark.parametrize("training", [True, False])
def test_first_and_second_derivatives(training: bool) -> None:
    fused, _ = pair(3)
    fused.train(training)
    x = torch.randn(5, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    assert torch.autograd.gradcheck(fused, (x,))
    assert torch.autograd.gradgradcheck(fused, (x,))


def test_what_is_saved_for_the_backward_pass() -> None:
    """Per-channel vectors; PyTorch's ReLU saves its output, which is of the size of the input."""
    x = torch.randn(16, 8, 10, 10, requires_grad=True)
    size = x.untyped_storage().nbytes()
    assert saved_bytes(BatchNorm(8, activation="relu"), x) <= 10 * 8 * 4
    assert saved_bytes(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()), x) >= size


@pytest.mark.slow
def test_compile() -> None:
    fused, separate = pair(3, torch.float32)
    compiled = torch.compile(fused, fullgraph=True)
    x = torch.randn(8, 3, 4, 4)
    torch.testing.assert_close(compiled(x), separate(x))
    torch.testing.assert_close(list(fused.buffers()), list(separate.buffers()))


def test_state_and_copies() -> None:
    fused, separate = pair(3)
    assert fused.state_dict().keys() == nn.BatchNorm1d(3).state_dict().keys()
    saved = io.BytesIO()
    torch.save(fused, saved)
    saved.seek(0)
    x = torch.randn(4, 3, dtype=torch.float64)
    for same in (copy.deepcopy(fused), torch.load(saved, weights_only=False)):
        torch.testing.assert_close(same(x), separate(x))
    assert repr(fused) == "BatchNorm(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, " + (
        "activation='relu')"
    )


def test_folding_keeps_the_relu() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), BatchNorm(4, activation="relu"), nn.Conv2d(4, 3, 1)).double()
    batches = [torch.randn(8, 2, 6, 6, dtype=torch.float64) for _ in range(2)]
    estimate_population(model, batches)
    folded = fold(model.eval())
    assert not any(isinstance(layer, BatchNorm) for layer in folded.modules())
    torch.testing.assert_close(folded(batches[0]), model(batches[0]))


def test_converting() -> None:
    model = nn.Sequential(BatchNorm(3, activation="relu"))
    with pytest.raises(ValueError, match="cannot restore layer '0': PyTorch's layers do not support an activation"):
        restore_batch_norm(model, torch.zeros(2, 3))
    converted = convert_batch_norm(nn.Sequential(nn.BatchNorm1d(3)))[0]
    assert isinstance(converted, BatchNorm)
    assert converted.activation is None


@pytest.mark.parametrize("name", ["gelu", "ReLU", ""])
def test_unknown_activations(name: str) -> None:
    with pytest.raises(ValueError, match="activation must be one of None, 'relu', got "):
        BatchNorm(3, activation=name)
