"""The network: its layers, its biases, and that its normalizations are interchangeable."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bn import BatchNorm, fold
from labml_bn.models import NORMS, ConvNet
from labml_bn.settings import parsed_layers


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


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("notation", "modules", "features"),
    [
        ("P2", "pool flatten fc", 14 * 14),
        ("30N-20N", "flatten fc norm relu fc norm relu fc", 28 * 28),
        ("8C3-P2-P2-4C3-4C1-12N", "conv norm pool pool relu conv norm relu conv norm relu flatten fc norm relu fc", 64),
        ("P2-3C14", "pool conv norm relu flatten fc", 3),
        ("6C5S2-5C4S3-P2", "conv norm relu conv norm pool relu flatten fc", 5),
    ],
)
def test_other_layers(norm: str, notation: str, modules: str, features: int) -> None:
    model = ConvNet(norm, parsed_layers(notation))
    assert model(torch.randn(4, 1, 28, 28)).shape == (4, 10)
    names = [name.rstrip("0123456789") for name, _ in model.named_children()]
    if norm == "batch_norm":  # includes the ReLU and a pooling that follows
        modules = modules.replace(" relu", "").replace("conv norm pool", "conv norm")
    assert names == modules.split()
    assert model.get_parameter("fc1.weight").shape[1] == features
    last = f"fc{names.count('fc')}.bias"
    biases = {name for name, _ in model.named_parameters() if "norm" not in name and "bias" in name}
    assert biases == (
        {f"{n}.bias" for n, _ in model.named_children() if n[:2] in {"co", "fc"}} if norm == "none" else {last}
    )
    assert not [module for module in fold(model.eval()).modules() if isinstance(module, _BatchNorm)]


def test_the_same_network_with_both_layers() -> None:
    """The ReLU is applied at the same places, before or after pooling."""
    layers = parsed_layers("P2-8C3-P2-P2-4C2-6C1-12N-11N")
    torch.manual_seed(0)
    ours = ConvNet("batch_norm", layers).double()
    theirs = ConvNet("torch", layers).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(16, 1, 28, 28, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


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
