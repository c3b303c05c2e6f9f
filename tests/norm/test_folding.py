"""Folded networks against the original networks, and against PyTorch's own folding."""

import copy
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from labml_bn import BatchNorm, fold
from labml_bn.models import NORMS, ConvNet

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
THEIRS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def randomized(model: nn.Module) -> Any:
    """The network in evaluation mode, with random parameters and running statistics in its normalizations."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean):
                if tensor is not None:
                    nn.init.normal_(tensor)
            if module.running_var is not None:
                nn.init.uniform_(module.running_var, 0.1, 3)
    return model.eval()


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


@settings(max_examples=60, deadline=None)
@given(
    dims=st.integers(1, 3),
    transposed=st.booleans(),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    affine=st.booleans(),
    ours=st.booleans(),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
)
def test_convolutions(
    dims: int, transposed: bool, groups: int, bias: bool, affine: bool, ours: bool, stride: int, padding: int
) -> None:
    """For any convolution and normalization: the same outputs, and the same weights as from PyTorch's folding."""
    torch.manual_seed(0)
    make = (TRANSPOSED if transposed else CONVOLUTIONS)[dims]
    convolution = make(4, 6, 3, stride=stride, padding=padding, groups=groups, bias=bias)
    norm: Any = (BatchNorm if ours else THEIRS[dims])(6, affine=affine)
    model = randomized(nn.Sequential(convolution, norm, nn.ReLU())).double()
    folded = fold(model)
    assert count_norms(folded) == 0
    x = torch.randn(2, 4, *[7] * dims, dtype=torch.float64)
    torch.testing.assert_close(folded(x), model(x))
    if not (transposed and groups > 1):  # not supported by PyTorch's
        theirs = fuse_conv_bn_eval(model[0], norm, transpose=transposed)
        torch.testing.assert_close(dict(folded.get_submodule("0").state_dict()), dict(theirs.state_dict()))


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias: bool) -> None:
    torch.manual_seed(0)
    model = randomized(nn.Sequential(nn.Linear(5, 4, bias=bias), BatchNorm(4)))
    folded = fold(model)
    x = torch.randn(3, 5)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    if bias:
        theirs = fuse_linear_bn_eval(model[0], model[1])
        torch.testing.assert_close(dict(folded.get_submodule("0").state_dict()), dict(theirs.state_dict()))


def test_linear_of_sequences() -> None:
    """After a linear layer, [batch, length, channels] is normalized over the length, which cannot be folded."""
    model = randomized(nn.Sequential(nn.Linear(5, 4), BatchNorm(7)))
    folded = fold(model)
    assert count_norms(folded) == 1
    x = torch.randn(3, 7, 5)
    torch.testing.assert_close(folded(x), model(x))
    ambiguous = fold(randomized(nn.Sequential(nn.Linear(5, 4), BatchNorm(4))))
    with pytest.raises(AssertionError, match=r"must output \[batch, channels, \*\] with 2 dimensions"):
        ambiguous(torch.randn(3, 4, 5))


@pytest.mark.parametrize("norm", NORMS)
def test_convnet(norm: str) -> None:
    torch.manual_seed(0)
    model = randomized(ConvNet(norm))
    before = copy.deepcopy(model.state_dict())
    folded = fold(model)
    assert count_norms(folded) == 0
    assert not folded.training
    x = torch.randn(8, 1, 28, 28)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert count_norms(model) == (0 if norm == "none" else 3)


class Branches(nn.Module):
    """Normalizations that cannot be folded, with names that do not reveal the order of the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.z = BatchNorm(4)
        self.a = nn.Conv1d(2, 4, 1)
        self.b = nn.Conv1d(4, 4, 1)
        self.c = BatchNorm(4)
        self.d = BatchNorm(4)
        self.e = BatchNorm(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.e(x)  # no preceding layer
        x = self.a(x)
        x = self.z(x) + x  # the output of the convolution is used twice
        x = self.b(self.b(x))  # a convolution that is called twice
        x = self.c(x)
        y: Tensor = self.d(torch.relu(x))  # the preceding layer is a ReLU
        return y


def test_not_foldable() -> None:
    torch.manual_seed(0)
    model = randomized(Branches())
    folded = fold(model)
    assert count_norms(folded) == 4
    x = torch.randn(3, 2, 5)
    torch.testing.assert_close(folded(x), model(x))


class Masked(nn.Module):
    """A convolution and a normalization that is called with a mask, or with None."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv1d(3, 4, 1), BatchNorm(4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The output [batch, 4, length] for x [batch, 3, length]."""
        y: Tensor = self.norm(self.convolution(x), mask=mask)
        return y


def test_masks() -> None:
    """Folding would drop the mask, and with it the zeros in the positions that do not count."""
    model, x, mask = randomized(Masked()), torch.randn(2, 3, 5), torch.rand(2, 5) < 0.5
    folded = fold(model)
    assert count_norms(folded) == 1
    torch.testing.assert_close(folded(x, mask), model(x, mask))


class TanhConvolution(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).tanh()


class TanhNorm(BatchNorm):
    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(input, mask).tanh()


def doubling(module: nn.Module, *args: Any) -> Any:
    return args[-1] * 2


def parametrized() -> nn.Module:
    return nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 4, 1)), BatchNorm(4))


def hooked_weight() -> nn.Module:
    """A hook recomputes the weight in each call, as in `torch.nn.utils.weight_norm`."""
    model = nn.Sequential(nn.Conv1d(2, 4, 1), BatchNorm(4))
    stored = model.get_parameter("0.weight").detach().clone()

    def recompute(module: Any, inputs: Any) -> None:
        module.weight.data = stored * 2

    model[0].register_forward_pre_hook(recompute)
    return model


def hooked_convolution() -> nn.Module:
    model = nn.Sequential(nn.Conv1d(2, 4, 1), BatchNorm(4))
    model[0].register_forward_hook(doubling)
    return model


def hooked_norm() -> nn.Module:
    model = nn.Sequential(nn.Conv1d(2, 4, 1), BatchNorm(4))
    model[1].register_forward_hook(doubling)
    return model


def other_convolution() -> nn.Module:
    return nn.Sequential(TanhConvolution(2, 4, 1), BatchNorm(4))


def other_norm() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 1), TanhNorm(4))


class Tied(nn.Module):
    """The decoder uses the weight of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(5, 4)
        self.norm = BatchNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.encoder(x.mean(dim=1))))
        return nn.functional.linear(h, self.encoder.weight.t())


@pytest.mark.parametrize(
    "make", [parametrized, hooked_weight, hooked_convolution, hooked_norm, other_convolution, other_norm, Tied]
)
def test_hooks_subclasses_and_tied_weights(make: Any) -> None:
    torch.manual_seed(0)
    model = randomized(make())
    folded = fold(model)
    x = torch.randn(3, 2, 5)
    torch.testing.assert_close(folded(x), model(x))


def pruned(layer: nn.Module) -> Any:
    return prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        pruned,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
    ],
    ids=lambda wrap: f"{wrap.__module__.rpartition('.')[2]}.{wrap.__name__}",
)
@pytest.mark.parametrize("called_before", [True, False])
def test_computed_weights(wrap: Callable[[nn.Module], nn.Module], called_before: bool) -> None:
    """A layer whose weight is computed in each call is not folded, but the rest of the network is. The copy computes
    its weight from its own parameters."""
    torch.manual_seed(0)
    model = nn.Sequential(wrap(nn.Conv1d(2, 4, 1)), BatchNorm(4), nn.ReLU(), nn.Conv1d(4, 4, 1), BatchNorm(4))
    model = randomized(model.double())
    x = torch.randn(3, 2, 5, dtype=torch.float64)
    if called_before:
        model(x)
    folded: Any = fold(model)
    assert [name for name, _ in folded.named_children()] == ["0", "1", "2", "3"]
    expected = model(x)
    torch.testing.assert_close(folded(x), expected)
    for parameter in folded.get_submodule("0").parameters():
        nn.init.zeros_(parameter)
    assert not torch.allclose(folded(x), expected)
    torch.testing.assert_close(model(x), expected)


def test_pruned_normalization() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 1), pruned(BatchNorm(4)), nn.Conv1d(4, 4, 1), BatchNorm(4))
    model = randomized(model)
    folded = fold(model)
    assert count_norms(folded) == 1
    x = torch.randn(3, 2, 5)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)


def test_buffer_that_was_computed_from_parameters() -> None:
    """As running statistics that are averaged without `no_grad`."""
    model = randomized(nn.Sequential(nn.Linear(5, 4), BatchNorm(4), nn.Identity()))
    model[1].running_mean = model[0].weight.sum(1)
    x = torch.randn(3, 5)
    torch.testing.assert_close(fold(model)(x), model(x), rtol=1e-5, atol=1e-5)


def test_network_that_cannot_be_copied() -> None:
    model: Any = nn.Sequential(nn.Linear(5, 4), BatchNorm(4)).eval()
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"^cannot fold: the network cannot be copied by copy.deepcopy: cannot pickle"):
        fold(model)
    del model.lock
    model.outputs = [model(torch.randn(3, 5))]
    with pytest.raises(
        ValueError, match=r"cannot be copied by copy.deepcopy: Only Tensors created explicitly .* moment$"
    ):
        fold(model)


@pytest.mark.parametrize("lazy", [nn.LazyBatchNorm1d(), nn.LazyLinear(3)], ids=str)
def test_lazy_layers(lazy: nn.Module) -> None:
    with pytest.raises(ValueError, match="cannot fold: layer '1' is lazy and not initialized; call the network first"):
        fold(nn.Sequential(nn.Linear(5, 4), lazy).eval())


def test_which_folded_parameters_require_a_gradient() -> None:
    """Those that were computed from one that does: the weight from W and γ, the bias from b, γ and β."""
    names = ("0.weight", "0.bias", "1.weight", "1.bias")
    for trained in itertools.product([True, False], repeat=4):
        model = nn.Sequential(nn.Linear(5, 4), BatchNorm(4)).eval()
        for name, requires_grad in zip(names, trained, strict=True):
            model.get_parameter(name).requires_grad_(requires_grad)
        weight, bias, scale, shift = trained
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                folded = fold(model)
            found = {name: parameter.requires_grad for name, parameter in folded.named_parameters()}
            assert found == {"0.weight": weight or scale, "0.bias": bias or scale or shift}
            assert all(parameter.is_leaf for parameter in folded.parameters())


@pytest.mark.parametrize("make", [nn.Conv1d, nn.ConvTranspose1d])
def test_layers_pruned_by_hand(make: Any) -> None:
    """The tensors are shorter than `out_channels` and `num_features`."""
    torch.manual_seed(0)
    model = randomized(nn.Sequential(make(2, 6, 1), BatchNorm(6)))
    kept = (slice(None), slice(4)) if make is nn.ConvTranspose1d else slice(4)
    model[0].weight = nn.Parameter(model[0].weight[kept])
    model[0].bias = nn.Parameter(model[0].bias[:4])
    folded = fold(model)
    assert count_norms(folded) == 1  # the tensors of the normalization are longer
    with pytest.raises(ValueError, match="expected 6 channels in dimension 1"):
        folded(torch.randn(3, 2, 5))
    for name in ("weight", "bias"):
        setattr(model[1], name, nn.Parameter(getattr(model[1], name)[:4]))
        setattr(model[1], f"running_{'mean' if name == 'bias' else 'var'}", torch.rand(4) + 1)
    folded = fold(model)
    assert count_norms(folded) == 0
    x = torch.randn(3, 2, 5)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)


def test_unbatched_convolution() -> None:
    """For an unbatched input, the layer would normalize over the rows of the image: the folded network rejects it."""
    folded = fold(randomized(nn.Sequential(nn.Conv2d(1, 4, 1), BatchNorm(4))))
    with pytest.raises(AssertionError, match=r"must output \[batch, channels, \*\] with 4 dimensions"):
        folded(torch.randn(1, 4, 6))


def test_consecutive_normalizations() -> None:
    torch.manual_seed(0)
    for first, x in ((nn.Linear(5, 4), torch.randn(3, 5)), (nn.Conv1d(2, 4, 1), torch.randn(3, 2, 5))):
        model = randomized(nn.Sequential(first, BatchNorm(4), BatchNorm(4), nn.ReLU()))
        folded = fold(model)
        assert count_norms(folded) == 0
        torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)


def test_dtypes_do_not_change() -> None:
    model = randomized(nn.Sequential(nn.Linear(5, 4), BatchNorm(4))).bfloat16()
    assert {parameter.dtype for parameter in fold(model).parameters()} == {torch.bfloat16}


def test_training_mode() -> None:
    with pytest.raises(ValueError, match=r"the network is in training mode; call model.eval\(\) first"):
        fold(nn.Sequential(nn.Linear(5, 4), BatchNorm(4)))
    model = nn.Sequential(nn.Linear(5, 4), BatchNorm(4)).eval()
    model[1].train()
    with pytest.raises(ValueError, match=r"layer '1' is in training mode"):
        fold(model)


@pytest.mark.parametrize("layer", [BatchNorm, nn.BatchNorm1d])
def test_no_running_statistics(layer: Any) -> None:
    model = nn.Sequential(nn.Linear(5, 4), layer(4, track_running_stats=False)).eval()
    with pytest.raises(
        ValueError, match="cannot fold: layer '1' keeps no running statistics, so its output depends on the batch"
    ):
        fold(model)


def test_not_traceable() -> None:
    class Conditional(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"cannot be traced by torch\.fx"):
        fold(Conditional().eval())
