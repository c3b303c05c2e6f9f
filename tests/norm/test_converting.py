"""Conversions between PyTorch's layers and this one, and the state of the annotated implementation."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labml_bn import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d, convert_batch_norm, fold, restore_batch_norm
from labml_bn.norm import Renormalization

#: The names of the annotated implementation, and ours.
NAMES = {"scale": "weight", "shift": "bias", "exp_mean": "running_mean", "exp_var": "running_var"}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4, eps=1e-3, momentum=None),
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4, affine=False, momentum=0.3)),
        nn.Flatten(),
        nn.Linear(36, 5),
        nn.BatchNorm1d(5, track_running_stats=False),
    )


def norm_classes(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules() if "BatchNorm" in type(module).__name__]


def test_round_trip() -> None:
    """Only the classes change: values, modes, dtypes, parameters and hooks do not."""
    model = network().double()
    model[1].eval()
    model(torch.randn(3, 1, 5, 5, dtype=torch.float64))
    called: list[str] = []
    model[1].register_forward_hook(lambda *_: called.append("hook"))
    original = copy.deepcopy(model)
    parameters, before = list(model.parameters()), norm_classes(model)

    assert convert_batch_norm(model) is model
    assert norm_classes(model) == [BatchNorm2d, BatchNorm2d, BatchNorm1d]
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [m.training for m in model.modules()] == [m.training for m in original.modules()]
    x = torch.randn(3, 1, 5, 5, dtype=torch.float64)
    for training in (None, True, False):
        if training is not None:
            model.train(training)
            original.train(training)
        torch.testing.assert_close(model(x), original(x))
        torch.testing.assert_close(dict(model.state_dict()), dict(original.state_dict()))
    assert called

    assert restore_batch_norm(model) is model
    assert norm_classes(model) == before
    assert vars(model[1]).keys() == vars(original[1]).keys()
    torch.testing.assert_close(model.train()(x), original.train()(x))


def test_shared_layer() -> None:
    layer: nn.Module = nn.BatchNorm1d(3)
    model = convert_batch_norm(nn.ModuleList([layer, nn.Sequential(layer)]))
    assert model[0] is layer
    assert type(layer) is BatchNorm1d


def test_the_model_is_a_layer() -> None:
    layer: nn.Module = nn.BatchNorm3d(3)
    assert type(convert_batch_norm(layer)) is BatchNorm3d


def test_subclasses_and_other_layers_are_not_converted() -> None:
    class Mine(nn.BatchNorm2d):
        pass

    class Ours(BatchNorm2d):
        pass

    model = nn.ModuleList([Mine(3), nn.SyncBatchNorm(3), nn.InstanceNorm2d(3), nn.LazyInstanceNorm2d()])
    before = [type(module) for module in model]
    assert [type(module) for module in convert_batch_norm(model)] == before
    model = nn.ModuleList([Ours(3), Mine(3)])
    assert [type(module) for module in restore_batch_norm(model)] == [Ours, Mine]


def test_code_that_looks_for_pytorchs_classes_finds_converted_layers() -> None:
    """As tools that freeze, count or initialize layers do, some of which create others from what they find."""
    model = convert_batch_norm(network())
    model(torch.randn(3, 1, 5, 5))
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [type(layer) for layer in layers] == [BatchNorm2d] * 2
    assert sum(isinstance(module, nn.BatchNorm1d) for module in model.modules()) == 1
    for layer in layers:
        layer.eval().requires_grad_(False)
    before = [copy.deepcopy(layer.state_dict()) for layer in layers]
    model(torch.randn(3, 1, 5, 5)).square().sum().backward()
    for layer, state in zip(layers, before, strict=True):
        torch.testing.assert_close(dict(layer.state_dict()), dict(state))
        assert all(parameter.grad is None for parameter in layer.parameters())


def test_layer_pruned_by_hand() -> None:
    """Its `num_features` is not that of its tensors: conversion, restoring and folding do not use it."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)).double()
    x = torch.randn(8, 2, dtype=torch.float64)
    model(x)
    for layer in model:
        for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
            if tensor.dim():
                setattr(layer, name, nn.Parameter(tensor.detach()[:3]) if "running" not in name else tensor[:3])
    convert_batch_norm(model.eval())
    a = 1 / (model[1].running_var + 1e-5).sqrt()
    expected = (x @ model[0].weight.T + model[0].bias - model[1].running_mean) * a
    torch.testing.assert_close(model(x), expected)
    folded = fold(model)
    assert [type(layer) for layer in folded.children()] == [nn.Linear]
    torch.testing.assert_close(folded(x), expected)
    assert type(restore_batch_norm(model)[1]) is nn.BatchNorm1d


@pytest.mark.parametrize("lazy", [nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d])
@pytest.mark.parametrize("options", [{}, {"affine": False, "track_running_stats": False}], ids=str)
def test_lazy_layers(lazy: Any, options: dict[str, Any]) -> None:
    """They can be converted after the first call, by which PyTorch changes their class, also without any tensor."""
    model = nn.Sequential(nn.BatchNorm1d(2), lazy(**options))
    with pytest.raises(ValueError, match=r"cannot convert layer '1': it is lazy and not initialized; call the network"):
        convert_batch_norm(model)
    assert [type(layer) for layer in model] == [nn.BatchNorm1d, lazy]
    shape = {nn.LazyBatchNorm1d: (4, 3), nn.LazyBatchNorm2d: (4, 3, 2, 2), nn.LazyBatchNorm3d: (4, 3, 2, 2, 2)}[lazy]
    x = torch.randn(shape)
    model[1](x)
    theirs = type(model[1])
    expected = copy.deepcopy(model[1])(x)
    assert isinstance(convert_batch_norm(model)[1], BatchNorm)
    torch.testing.assert_close(model[1](x), expected)
    assert type(restore_batch_norm(model)[1]) is theirs


def test_invalid_layer_is_named_and_nothing_changes() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=2.0))
    with pytest.raises(ValueError, match=r"layer '1': momentum must be in"):
        convert_batch_norm(model)
    assert norm_classes(model) == [nn.BatchNorm1d] * 2


def test_original_batch_norm_requires_an_example() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), BatchNorm(4), nn.Flatten(), BatchNorm(36))
    model[1].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(ValueError, match=r"cannot restore layer '1': pass restore_batch_norm an example input"):
        restore_batch_norm(model)
    assert norm_classes(model) == [BatchNorm] * 2
    before = copy.deepcopy(model.state_dict())
    restore_batch_norm(model, torch.randn(1, 1, 5, 5))
    assert norm_classes(model) == [nn.BatchNorm2d, nn.BatchNorm1d]
    assert [module.training for module in model.modules()] == modes
    torch.testing.assert_close(dict(model.state_dict()), dict(before))


@pytest.mark.parametrize(
    ("extra", "meaning"),
    [
        ({"unbiased": False}, "unbiased=False"),
        ({"ghost_batch_size": 8}, "ghost batches"),
        ({"renorm": Renormalization()}, "batch renormalization"),
    ],
    ids=["unbiased", "ghost_batch_size", "renorm"],
)
def test_what_pytorchs_layers_cannot_do_is_not_lost(extra: dict[str, Any], meaning: str) -> None:
    model = nn.Sequential(BatchNorm(3, **extra))
    with pytest.raises(ValueError, match=f"cannot restore layer '0': PyTorch's layers do not support {meaning}"):
        restore_batch_norm(model, torch.randn(2, 3))
    assert type(model[0]) is BatchNorm


@pytest.mark.parametrize("affine", [True, False])
def test_state_of_the_annotated_implementation(affine: bool) -> None:
    """Its names are accepted in a plain dictionary, and in a network's `state_dict()`, which has metadata."""
    theirs: dict[str, Tensor] = {"exp_mean": torch.randn(3), "exp_var": torch.rand(3)}
    if affine:
        theirs |= {"scale": torch.randn(3), "shift": torch.randn(3)}

    class Annotated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, value in theirs.items():
                if name.startswith("exp"):
                    self.register_buffer(name, value)
                else:
                    self.register_parameter(name, nn.Parameter(value))

    network = nn.Sequential(nn.Linear(3, 3), Annotated())
    ours: Any = nn.Sequential(nn.Linear(3, 3), BatchNorm(3, affine=affine))
    ours.load_state_dict(network.state_dict())
    for name, value in theirs.items():
        torch.testing.assert_close(getattr(ours[1], NAMES[name]).detach(), value)
    layer = BatchNorm(3, affine=affine)
    layer.load_state_dict(dict(theirs))
    torch.testing.assert_close(layer.running_var, theirs["exp_var"])


@pytest.mark.parametrize("twice", NAMES)
@pytest.mark.parametrize("others", ["theirs", "ours"])
def test_state_with_both_names_of_a_tensor(twice: str, others: str) -> None:
    """It is ambiguous: the key of the annotated implementation is unexpected, whichever names the other tensors have.
    If the state dict is not loaded strictly, the tensor of our name is taken."""
    layer = BatchNorm(3)
    state = {name if others == "theirs" else NAMES[name]: torch.rand(3) for name in NAMES}
    state |= {twice: torch.rand(3), NAMES[twice]: torch.rand(3)}
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError, match=f'Unexpected key.*: "{twice}"'):
        layer.load_state_dict(dict(state))
    layer.load_state_dict(before)
    result = layer.load_state_dict(dict(state), strict=False)
    assert result.unexpected_keys == [twice]
    assert result.missing_keys == []
    for theirs, ours in NAMES.items():
        torch.testing.assert_close(layer.state_dict()[ours], state.get(ours, state.get(theirs)))
