"""PyTorch's own test cases for its layers, and PyTorch's transformations: compile, export and vmap."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal import common_modules

from labml_bn import BatchNorm

LAYERS = {"BatchNorm1d": nn.BatchNorm1d, "BatchNorm2d": nn.BatchNorm2d, "BatchNorm3d": nn.BatchNorm3d}


def cases() -> list[Any]:
    """Every test case of the installed PyTorch, as (layer, case)."""
    found = []
    for name in LAYERS:
        make = getattr(common_modules, f"module_inputs_torch_nn_{name}")
        torch.manual_seed(0)
        inputs = make(None, device="cpu", dtype=torch.float64, requires_grad=False, training=True)
        found += [pytest.param(name, case, id=f"{name}-{number}-{case.desc}") for number, case in enumerate(inputs)]
    return found


CASES = cases()


def test_number_of_cases() -> None:
    has_bias = "bias" in nn.BatchNorm1d.__init__.__annotations__  # since torch 2.13
    assert len(CASES) >= (22 if has_bias else 19)


def forward_backward(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The results of a training step: output, gradients, buffers."""
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    (y.square() * torch.arange(1.0, y.numel() + 1, dtype=y.dtype).view(y.shape)).sum().backward()
    found = {"output": y.detach(), "input gradient": x.grad}
    found |= {f"gradient of {name}": p.grad for name, p in layer.named_parameters()}
    found |= {name: buffer.clone() for name, buffer in layer.named_buffers()}
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(("name", "case"), CASES)
def test_pytorch_cases(name: str, case: Any) -> None:
    """Outputs, gradients and buffers over three training steps and an evaluation."""
    torch.manual_seed(0)
    args, kwargs = case.constructor_input.args, case.constructor_input.kwargs
    (x,) = case.forward_input.args
    theirs = LAYERS[name](*args, **kwargs).double()
    ours = BatchNorm(*args, **kwargs).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    ours.load_state_dict(theirs.state_dict())
    for training in (True, True, True, False):
        ours.train(training)
        theirs.train(training)
        x = x + torch.randn_like(x)
        torch.testing.assert_close(forward_backward(ours, x), forward_backward(theirs, x))


@pytest.mark.skipif(not hasattr(common_modules, "module_error_inputs_torch_nn_BatchNorm1d_2d_3d"), reason="older torch")
@pytest.mark.parametrize("name", LAYERS)
def test_pytorch_error_cases(name: str) -> None:
    """The same errors with the same messages, although some are raised earlier, by the constructor."""
    info = type("Info", (), {"module_cls": LAYERS[name]})
    errors = common_modules.module_error_inputs_torch_nn_BatchNorm1d_2d_3d(
        info, device="cpu", dtype=torch.float64, requires_grad=False, training=True
    )
    assert errors
    for error in errors:
        case = error.module_error_input
        with pytest.raises(error.error_type, match=error.error_regex):
            BatchNorm(*case.constructor_input.args, **case.constructor_input.kwargs)(*case.forward_input.args)


def net(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), BatchNorm(4, **options), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3), BatchNorm(3)
    )


@pytest.fixture
def compiled() -> Any:
    """`torch.compile` without cached graphs, and with its internal deprecation warnings ignored."""
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield lambda layer, **options: torch.compile(layer, fullgraph=True, **options)
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"unbiased": False}], ids=str)
def test_compile(compiled: Callable[..., nn.Module], options: dict[str, Any], backend: str) -> None:
    """In training and in evaluation the layer compiles to one graph without breaks, also with `momentum=None`."""
    plain = net(**options)
    fast = compiled(copy.deepcopy(plain), backend=backend)
    for training in (True, True, False):
        plain.train(training)
        fast.train(training)
        x = torch.randn(5, 2, 6, 6)
        expected, found = forward_backward(plain, x), forward_backward(fast, x)
        found = {name.replace("_orig_mod.", ""): value for name, value in found.items()}
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compile_with_dynamic_batch_size(compiled: Callable[..., nn.Module]) -> None:
    plain = BatchNorm(3)
    fast = compiled(copy.deepcopy(plain), backend="aot_eager", dynamic=True)
    for batch in (4, 7, 5):
        x = torch.randn(batch, 3, 2)
        torch.testing.assert_close(fast(x), plain(x))
    with pytest.raises(Exception, match=r"more than one value per channel|Observed exception"):  # older torch
        fast(torch.randn(1, 3, 1))


@pytest.mark.slow
def test_export() -> None:
    """An exported network gives the same outputs for any batch size."""
    model = net().eval()
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings inside older torch
        program = torch.export.export(model, (torch.randn(4, 2, 6, 6),), dynamic_shapes=({0: batch},))
    for size in (1, 9):
        x = torch.randn(size, 2, 6, 6)
        torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.slow
def test_export_in_training_mode() -> None:
    """`torch.export` replaces the closed form by the derivative of the forward operations: the gradient is the same."""
    torch.manual_seed(0)
    layer = BatchNorm(3)
    x = torch.randn(6, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(
        forward_backward(exported, x)["input gradient"], forward_backward(layer, x)["input gradient"]
    )


def test_vmap_over_an_ensemble() -> None:
    """Networks stacked along a new dimension give the same gradients and buffers as each network alone."""
    models = [nn.Sequential(nn.Linear(6, 3), BatchNorm(3)).double() for _ in range(4)]
    for model in models:
        nn.init.normal_(model.get_parameter("1.weight"))
    parameters, buffers = torch.func.stack_module_state(models)
    x = torch.randn(5, 6, dtype=torch.float64)
    for training in (True, False):
        base = copy.deepcopy(models[0]).train(training)

        def loss(p: Any, b: Any, x: Tensor, base: nn.Module = base) -> Tensor:
            y: Tensor = torch.func.functional_call(base, (p, b), (x,))
            return y.pow(3).sum()

        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(0, 0, None))(parameters, buffers, x)
        for number, model in enumerate(models):
            model.train(training)
            model.zero_grad()
            model(x).pow(3).sum().backward()
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(gradients[name][number], parameter.grad)
            for name, buffer in model.named_buffers():
                torch.testing.assert_close(buffers[name][number], buffer)


def test_meta_device() -> None:
    """A layer can be created without memory, called to infer shapes, and initialized later."""
    layer = BatchNorm(3, device="meta")
    assert layer(torch.empty(2, 3, 4, 4, device="meta")).shape == (2, 3, 4, 4)
    layer.eval()
    assert layer(torch.empty(2, 3, device="meta")).is_meta
    real = layer.to_empty(device="cpu")
    real.reset_parameters()
    torch.testing.assert_close(dict(real.state_dict()), dict(BatchNorm(3).state_dict()))
    with torch.device("meta"):
        assert all(tensor.is_meta for tensor in BatchNorm(3).state_dict().values())
    meta = BatchNorm(3, device="meta")
    meta.load_state_dict(BatchNorm(3).state_dict(), assign=True)
    assert meta(torch.randn(2, 3)).device.type == "cpu"


def test_weight_averaging() -> None:
    """`AveragedModel` and `update_bn` recognize the layer as a batch normalization."""
    torch.manual_seed(0)
    averaged = torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Linear(4, 3), BatchNorm(3)))
    theirs = torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    theirs.load_state_dict(averaged.state_dict())
    batches = [torch.randn(8, 4) for _ in range(5)]
    for model in (averaged, theirs):
        torch.optim.swa_utils.update_bn(batches, model)
    torch.testing.assert_close(dict(averaged.state_dict()), dict(theirs.state_dict()))
    assert [layer.momentum for layer in averaged.modules() if isinstance(layer, BatchNorm)] == [0.1]
