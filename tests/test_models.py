"""The network: its layers, its biases, and that its normalizations are interchangeable."""

import pytest
import torch
from torch import nn

from labml_bn import BatchNorm
from labml_bn.models import NORMS, ConvNet


@pytest.mark.parametrize("norm", NORMS)
def test_layers(norm: str) -> None:
    torch.manual_seed(0)
    model = ConvNet(norm)
    assert model(torch.randn(4, 1, 28, 28)).shape == (4, 10)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if "norm" not in name and "weight" in name}
    assert shapes == {
        "conv1.weight": (20, 1, 5, 5),
        "conv2.weight": (50, 20, 5, 5),
        "fc1.weight": (500, 800),
        "fc2.weight": (10, 500),
    }
    biases = {name for name, _ in model.named_parameters() if "norm" not in name and "bias" in name}
    assert biases == (
        {f"{layer}.bias" for layer in ("conv1", "conv2", "fc1", "fc2")} if norm == "none" else {"fc2.bias"}
    )


def test_norms() -> None:
    ours = [module for module in ConvNet("batch_norm").modules() if isinstance(module, BatchNorm)]
    assert [layer.num_features for layer in ours] == [20, 50, 500]
    theirs = [type(module) for module in ConvNet("torch").modules() if "BatchNorm" in type(module).__name__]
    assert theirs == [nn.BatchNorm2d, nn.BatchNorm2d, nn.BatchNorm1d]
    assert not any("BatchNorm" in type(module).__name__ for module in ConvNet("none").modules())


def test_same_seed_same_network() -> None:
    """From the same seed, networks with this layer and with PyTorch's have the same weights, names and outputs."""
    torch.manual_seed(0)
    ours = ConvNet("batch_norm").double()
    torch.manual_seed(0)
    theirs = ConvNet("torch").double()
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
    x = torch.randn(4, 1, 28, 28, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
