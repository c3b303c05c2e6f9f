"""The network that a file describes: its state is copied, and nothing that only its settings ask for is allocated."""

import pytest
import torch

from labml_bn.models import ConvNet
from labml_bn.settings import complete
from labml_bn.trained.network import MOST_VALUES, check_network, evaluation_batch_size, make_network


@pytest.mark.parametrize("norm", ["batch_norm", "torch", "none"])
def test_a_copy(norm: str) -> None:
    torch.manual_seed(0)
    original = ConvNet(norm).to(memory_format=torch.channels_last)
    x = torch.randn(4, 1, 28, 28)
    original(x)
    network = make_network(complete({"norm": norm}), original.state_dict())
    assert not any(tensor.is_meta for tensor in network.state_dict().values())
    for (name, copy), expected in zip(network.state_dict().items(), original.state_dict().values(), strict=True):
        assert torch.equal(copy, expected), name
        assert copy.data_ptr() != expected.data_ptr()
        assert copy.stride() == torch.empty(copy.shape).stride(), name
    expected = ConvNet(norm)  # loaded as PyTorch does
    expected.load_state_dict(original.state_dict())
    assert torch.equal(network.eval()(x), expected.eval()(x))


def test_another_state() -> None:
    state = ConvNet().state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for conv1\.weight"):
        make_network(complete({"layers": "30C5-P2-50C5-P2-500N"}), state)
    with pytest.raises(RuntimeError, match="Missing key"):
        make_network(complete({"layers": "-".join(["9999N"] * 100)}), state)  # 40 GB of weights


@pytest.mark.parametrize(
    ("layers", "most"), [("20C5-P2-50C5-P2-500N", 20 * 24 * 24), ("500N", 784), ("9999C1-P28", 9999 * 784)]
)
def test_batch_size(layers: str, most: int) -> None:
    """A layer of a batch has at most a GiB."""
    for valid_batch_size in (1, 256, 10**9):
        found = evaluation_batch_size(complete({"layers": layers, "valid_batch_size": valid_batch_size}))
        assert found == min(valid_batch_size, MOST_VALUES // most)


def test_shapes() -> None:
    shapes = {name: tensor.shape for name, tensor in ConvNet().state_dict().items()}
    check_network(complete({}), shapes)
    with pytest.raises(RuntimeError, match=r"size mismatch for conv1\.weight"):
        check_network(complete({}), shapes | {"conv1.weight": torch.Size([1, 2])})
