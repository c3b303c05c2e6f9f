"""The layers that are instances of PyTorch's `BatchNorm1d`, `2d` and `3d`, and PyTorch's own conversions of them."""

import copy
import io
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal import common_modules

from labml_bn import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d, estimate_population, fold, restore_batch_norm
from labml_bn.norm.dimensions import TORCH_CLASSES

#: This project's layer, PyTorch's, and the shapes that it accepts.
LAYERS: list[tuple[type[BatchNorm], type[nn.Module], list[tuple[int, ...]]]] = [
    (BatchNorm1d, nn.BatchNorm1d, [(4, 3), (4, 3, 5)]),
    (BatchNorm2d, nn.BatchNorm2d, [(4, 3, 5, 2)]),
    (BatchNorm3d, nn.BatchNorm3d, [(4, 3, 5, 2, 2)]),
]
SHAPES = [(4, 3), (4, 3, 5), (4, 3, 5, 2), (4, 3, 5, 2, 2), (4, 3, 5, 2, 2, 1)]
ACCEPTED = [(ours, shape) for ours, _, shapes in LAYERS for shape in shapes]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def normalized(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Algorithm 1 without a scale and a shift."""
    dims = [0, *range(2, x.dim())]
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) / (var + eps).sqrt()


@pytest.mark.parametrize(("ours", "theirs", "shapes"), LAYERS)
def test_classes(ours: Any, theirs: Any, shapes: Any) -> None:
    layer = ours(3)
    assert isinstance(layer, BatchNorm)
    assert isinstance(layer, theirs)
    assert [other for other in TORCH_CLASSES.values() if isinstance(layer, other)] == [theirs]
    assert TORCH_CLASSES[ours] is theirs
    assert repr(layer) == repr(theirs(3)) == f"{theirs.__name__}({layer.extra_repr()})"


@pytest.mark.parametrize(("ours", "theirs", "shapes"), LAYERS)
def test_accepted_dimensions(ours: Any, theirs: Any, shapes: Any) -> None:
    """The shapes that PyTorch's layer accepts give the normalized input; others a ValueError, and change nothing."""
    for shape in SHAPES:
        layer = ours(3, dtype=torch.float64)
        x = torch.randn(shape, dtype=torch.float64)
        if shape in shapes:
            torch.testing.assert_close(layer(x), normalized(x))
        else:
            with pytest.raises(ValueError, match=r"expected an input of shape \[batch, channels") as error:
                layer(x)
            assert str(error.value).endswith(f"got {shape}")
            assert layer.num_batches_tracked == 0


@pytest.mark.skipif(not hasattr(common_modules, "module_error_inputs_torch_nn_BatchNorm1d_2d_3d"), reason="older torch")
@pytest.mark.parametrize(("ours", "theirs", "shapes"), LAYERS)
def test_pytorch_error_cases(ours: Any, theirs: Any, shapes: Any) -> None:
    info = type("Info", (), {"module_cls": theirs})
    errors = common_modules.module_error_inputs_torch_nn_BatchNorm1d_2d_3d(
        info, device="cpu", dtype=torch.float64, requires_grad=False, training=True
    )
    assert errors
    for error in errors:
        case = error.module_error_input
        with pytest.raises(error.error_type, match=error.error_regex):
            ours(*case.constructor_input.args, **case.constructor_input.kwargs)(*case.forward_input.args)


@pytest.mark.parametrize(("ours", "shape"), ACCEPTED)
@pytest.mark.parametrize("training", [True, False])
def test_copies(ours: Any, shape: tuple[int, ...], training: bool) -> None:
    """Copies by `deepcopy`, pickle and `torch.save` compute the same, and are of the same class."""
    layer = ours(3, eps=0.1, momentum=0.5, unbiased=False, activation="relu").train(training)
    x = torch.randn(shape)
    layer(x)
    saved = io.BytesIO()
    torch.save(layer, saved)
    saved.seek(0)
    copies = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(saved, weights_only=False)
    expected = copy.deepcopy(layer)(x)
    for other in copies:
        assert type(other) is ours
        assert repr(other) == repr(layer)
        torch.testing.assert_close(other(x), expected)


@pytest.mark.parametrize(("ours", "theirs", "shapes"), LAYERS)
def test_state_dicts_are_interchangeable(ours: Any, theirs: Any, shapes: Any) -> None:
    for source, target in (
        (ours(3), theirs(3)),
        (theirs(3), ours(3)),
        (ours(3), BatchNorm(3)),
        (BatchNorm(3), ours(3)),
    ):
        source(torch.randn(shapes[0]))
        target.load_state_dict(source.state_dict())
        torch.testing.assert_close(dict(target.state_dict()), dict(source.state_dict()))


@pytest.mark.parametrize(("ours", "shape"), ACCEPTED)
def test_the_other_functions_accept_them(ours: Any, shape: tuple[int, ...]) -> None:
    convolution: Any = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(shape) - 2]
    options = {} if convolution is nn.Linear else {"kernel_size": 1}
    model = nn.Sequential(convolution(3, 3, bias=False, **options), ours(3)).double()
    batches = [torch.randn(shape, dtype=torch.float64) for _ in range(3)]
    estimate_population(model, batches)
    torch.testing.assert_close(model[1].running_mean, model[0](torch.cat(batches)).transpose(0, 1).flatten(1).mean(1))
    folded = fold(model.eval())
    assert [type(layer) for layer in folded.children()] == [convolution]
    torch.testing.assert_close(folded(batches[0]), model(batches[0]))
    assert type(restore_batch_norm(model)[1]) is TORCH_CLASSES[ours]  # without an example


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_compile(training: bool) -> None:
    torch.compiler.reset()
    plain = BatchNorm2d(3).train(training)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings inside torch
        fast = torch.compile(copy.deepcopy(plain), fullgraph=True, backend="aot_eager")
        x = torch.randn(4, 3, 2, 2)
        torch.testing.assert_close(fast(x), plain(x))
        with pytest.raises(Exception, match=r"expected an input of shape|Observed exception"):
            fast(torch.randn(4, 3, 2))
    torch.compiler.reset()


@pytest.mark.parametrize("options", [{"unbiased": False}, {"activation": "relu"}, {"max_pool": 2}], ids=str)
def test_synchronized_layers_have_pytorchs_arguments_only(options: dict[str, Any]) -> None:
    """A limit: `convert_sync_batchnorm` creates a layer of PyTorch's from the arguments that it knows. It calls nothing
    of the layer that it replaces, so that this one cannot refuse. If this test fails, PyTorch has changed that."""
    layer = BatchNorm2d(3, **options)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(layer))[0]
    assert type(converted) is nn.SyncBatchNorm
    assert converted.weight is layer.weight
    assert not any(hasattr(converted, name) for name in options)


@pytest.fixture
def quantization() -> Iterator[Any]:
    """`torch.ao.quantization`, with its deprecation warnings ignored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao import quantization

        yield quantization


def small(norm: type[nn.Module]) -> nn.Sequential:
    """A small network in evaluation mode, whose normalization has running statistics."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), norm(4), nn.ReLU())
    for _ in range(3):
        model(torch.randn(64, 1, 8, 8))
    return model.eval()


def quantized(quantization: Any, model: nn.Module, x: Tensor) -> Tensor:
    """The output of the network after eager quantization to 8 bits, calibrated with x."""
    wrapped = quantization.QuantWrapper(model).eval()
    wrapped.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
    quantization.prepare(wrapped, inplace=True)
    wrapped(x)
    quantization.convert(wrapped, inplace=True)
    output: Tensor = wrapped(x)
    return output


@pytest.mark.parametrize("norm", [BatchNorm, BatchNorm2d])
def test_fusing_by_pytorch(quantization: Any, norm: type[nn.Module]) -> None:
    """A limit: `fuse_modules` finds layers by their exact class. It accepts the restored network."""
    layers = ["0", "1", "2"]
    with pytest.raises(AssertionError, match="did not find fuser method"):
        quantization.fuse_modules(small(norm), layers)
    model, x = small(norm), torch.randn(5, 1, 8, 8)
    fused = quantization.fuse_modules(restore_batch_norm(copy.deepcopy(model), x), layers)
    torch.testing.assert_close(fused(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", [BatchNorm, BatchNorm2d])
def test_quantization_requires_folding(quantization: Any, norm: type[nn.Module]) -> None:
    """A limit: the layer has no quantized form. A folded network does not contain it, and can be quantized."""
    x = torch.randn(64, 1, 8, 8)
    with pytest.raises(TypeError, match=r"expected an input of a floating dtype, got torch\.quint8"):
        quantized(quantization, small(norm), x)
    model = small(norm)
    expected = model(x)
    found = quantized(quantization, fold(model), x)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
