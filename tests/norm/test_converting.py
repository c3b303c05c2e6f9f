"""Conversions between PyTorch's layers and this one, and the state of the annotated implementation."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labml_bn import BatchNorm, convert_batch_norm, restore_batch_norm

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
    assert norm_classes(model) == [BatchNorm] * 3
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
    assert type(layer) is BatchNorm


def test_the_model_is_a_layer() -> None:
    layer: nn.Module = nn.BatchNorm3d(3)
    assert type(convert_batch_norm(layer)) is BatchNorm


def test_subclasses_and_other_layers_are_not_converted() -> None:
    class Mine(nn.BatchNorm2d):
        pass

    model = nn.ModuleList([Mine(3), nn.SyncBatchNorm(3), nn.InstanceNorm2d(3), nn.LazyBatchNorm1d()])
    before = [type(module) for module in model]
    assert [type(module) for module in convert_batch_norm(model)] == before


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


def test_restoring_a_biased_layer() -> None:
    model = nn.Sequential(BatchNorm(3, unbiased=False))
    with pytest.raises(ValueError, match="cannot restore layer '0': PyTorch's layers do not support unbiased=False"):
        restore_batch_norm(model, torch.randn(2, 3))


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
