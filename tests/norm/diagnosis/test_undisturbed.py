"""What is done within the context managers is undone."""

import pytest
import torch
from torch import nn

from labml_bn.norm.diagnosis.undisturbed import same_random_numbers, undisturbed


def test_buffers_are_copies_in_the_block() -> None:
    """Writing to them does not touch the originals, which come back as the same objects; shared ones stay shared."""
    layer, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    model = nn.ModuleDict({"one": layer, "other": other})
    other.running_mean = layer.running_mean
    originals = dict(model.named_buffers())
    before = {name: buffer.clone() for name, buffer in originals.items()}
    versions = {name: buffer._version for name, buffer in originals.items()}

    def change() -> None:
        with undisturbed(model):
            assert not torch.is_grad_enabled()
            assert not any(module.training for module in model.modules())
            for buffer in model.buffers():
                buffer.add_(1)
            assert other.running_mean is layer.running_mean
            assert layer.running_mean is not originals["one.running_mean"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        change()
    assert all(module.training for module in model.modules())
    assert all(buffer is originals[name] for name, buffer in model.named_buffers())
    for name, buffer in originals.items():
        assert torch.equal(buffer, before[name])
        assert buffer._version == versions[name]  # a backward pass that waits for it still works


def test_random_numbers() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    state = torch.get_rng_state()
    passes = []
    for _ in range(2):
        with same_random_numbers(model):
            passes.append(torch.rand(4))
    assert torch.equal(*passes)
    assert torch.equal(torch.get_rng_state(), state)
