"""The cases that PyTorch's own tests hold for its layers, and the transformations that PyTorch offers."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal import common_modules
from torch.utils.checkpoint import checkpoint

from labml_bn import BatchNorm

LAYERS = {"BatchNorm1d": nn.BatchNorm1d, "BatchNorm2d": nn.BatchNorm2d, "BatchNorm3d": nn.BatchNorm3d}


def cases() -> list[Any]:
    """Every case of the installed PyTorch, as (layer, constructor's arguments, shape of the input)."""
    found = []
    for name in LAYERS:
        make = getattr(common_modules, f"module_inputs_torch_nn_{name}")
        torch.manual_seed(0)
        inputs = make(None, device="cpu", dtype=torch.float64, requires_grad=False, training=True)
        found += [pytest.param(name, case, id=f"{name}-{number}-{case.desc}") for number, case in enumerate(inputs)]
    return found


CASES = cases()


def test_the_cases_are_all_there() -> None:
    has_bias = "bias" in nn.BatchNorm1d.__init__.__annotations__  # since torch 2.13
    assert len(CASES) >= (22 if has_bias else 19)


def forward_backward(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Everything that a step gives: output, gradients, buffers."""
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    (y.square() * torch.arange(1.0, y.numel() + 1, dtype=y.dtype).view(y.shape)).sum().backward()
    found = {"output": y.detach(), "input gradient": x.grad}
    found |= {f"gradient of {name}": p.grad for name, p in layer.named_parameters()}
    found |= {name: buffer.clone() for name, buffer in layer.named_buffers()}
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(("name", "case"), CASES)
def test_pytorchs_cases(name: str, case: Any) -> None:
    """Outputs, gradients and buffers over three steps, and the evaluation after them."""
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
def test_pytorchs_error_cases(name: str) -> None:
    """The same errors in the same words; ours come when the layer is made, not when it is first used."""
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
    """`torch.compile` with a fresh start, its deprecation warnings about itself left to it."""
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield lambda layer, **options: torch.compile(layer, fullgraph=True, **options)
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"unbiased": False}], ids=str)
def test_compile(compiled: Callable[..., nn.Module], options: dict[str, Any], backend: str) -> None:
    """One graph without breaks, also with `momentum=None`; training, then evaluation."""
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
def test_compile_with_changing_batches(compiled: Callable[..., nn.Module]) -> None:
    plain = BatchNorm(3)
    fast = compiled(copy.deepcopy(plain), backend="aot_eager", dynamic=True)
    for batch in (4, 7, 5):
        x = torch.randn(batch, 3, 2)
        torch.testing.assert_close(fast(x), plain(x))
    with pytest.raises(Exception, match=r"more than one value per channel|Observed exception"):  # older ones do not say
        fast(torch.randn(1, 3, 1))


@pytest.mark.slow
def test_export() -> None:
    """An exported program evaluates as the network does, for any batch."""
    model = net().eval()
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # older versions warn of themselves
        program = torch.export.export(model, (torch.randn(4, 2, 6, 6),), dynamic_shapes=({0: batch},))
    for size in (1, 9):
        x = torch.randn(size, 2, 6, 6)
        torch.testing.assert_close(program.module()(x), model(x))


def test_ensemble_by_vmap() -> None:
    """Several networks at once, stacked along a new dimension, give what each gives by itself, gradients included."""
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


def test_checkpointing() -> None:
    """Recomputing the forward pass in the backward pass gives the same gradients. It normalizes a second time, and so
    averages a second time into the running estimates, as with PyTorch's layer."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(4, 3), BatchNorm(3), nn.ReLU()).double()
    theirs = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU()).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 4, dtype=torch.float64)
    plain = forward_backward(copy.deepcopy(ours), x)

    class Recomputing(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            return checkpoint(self[0], x, use_reentrant=False)

    found = forward_backward(Recomputing(ours), x)
    torch.testing.assert_close(found, forward_backward(Recomputing(theirs), x))
    for name, value in plain.items():
        if "gradient" in name or name == "output":
            torch.testing.assert_close(found[name.replace("of ", "of 0.")], value)


def test_on_the_meta_device() -> None:
    """A network can be laid out without memory, run for its shapes, and filled afterwards."""
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


def test_forward_mode_is_refused_in_words() -> None:
    """Derivatives in forward mode are the one thing that is not there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch.func imports for it is on its way out
        with pytest.raises(NotImplementedError, match="jvp"):
            torch.func.jvp(BatchNorm(3).eval(), (torch.randn(2, 3),), (torch.randn(2, 3),))


def test_weight_averaging() -> None:
    """`AveragedModel` and `update_bn` know the layer for what it is."""
    torch.manual_seed(0)
    averaged = torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Linear(4, 3), BatchNorm(3)))
    theirs = torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    theirs.load_state_dict(averaged.state_dict())
    batches = [torch.randn(8, 4) for _ in range(5)]
    for model in (averaged, theirs):
        torch.optim.swa_utils.update_bn(batches, model)
    torch.testing.assert_close(dict(averaged.state_dict()), dict(theirs.state_dict()))
    assert [layer.momentum for layer in averaged.modules() if isinstance(layer, BatchNorm)] == [0.1]
