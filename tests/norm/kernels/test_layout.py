"""The memory format of the results depends on x alone: it is that of PyTorch's layer, for every kernel."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from labml_bn import BatchNorm
from labml_bn.norm import kernels
from labml_bn.norm.kernels import cpu, operators, reference
from labml_bn.norm.kernels.layout import CHANNELS_LAST, in_format_of, is_channels_last, memory_format

Layout = Callable[[Tensor], Tensor]


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=CHANNELS_LAST[x.dim()])


#: Each of them changes the strides, and some the shape. The sizes are different, and more than 2.
LAYOUTS: dict[str, Layout] = {
    "contiguous": lambda x: x,
    "channels_last": channels_last,
    "transposed": lambda x: x.transpose(-1, -2),
    "batch last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "channels last but one": lambda x: x.movedim(1, -2).contiguous().movedim(-2, 1),
    "slice": lambda x: x[..., 1:3],
    "some channels": lambda x: x[:, ::2],
    "slice of channels_last": lambda x: channels_last(x)[..., :2],
    "some channels of channels_last": lambda x: channels_last(x)[:, 1:3],
    "every second channel of channels_last": lambda x: channels_last(x)[:, ::2],
    "one channel of channels_last": lambda x: channels_last(x)[:, 1:2],
    "one image of channels_last": lambda x: channels_last(x)[1:2],
    "one column of channels_last": lambda x: channels_last(x)[..., 1:2],
    "one row": lambda x: x[..., 1:2, :],
    "one value per channel and image": lambda x: x.flatten(2)[..., :1].view(*x.shape[:2], *[1] * (x.dim() - 2)),
    "batch expanded": lambda x: x[:1].expand_as(x),
    "channels expanded": lambda x: x[:, :1].expand_as(x),
    "columns expanded": lambda x: channels_last(x)[..., :1].expand_as(x),
}
SHAPES = [(4, 5, 6, 3), (3, 5, 4, 6, 7)]
CASES = [(shape, layout) for shape in SHAPES for layout in LAYOUTS]


def formats(x: Tensor) -> dict[str, bool]:
    return {"contiguous": x.is_contiguous(), "channels_last": is_channels_last(x)}


def make(shape: tuple[int, ...], layout: str) -> Tensor:
    return LAYOUTS[layout](torch.randn(shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(("shape", "layout"), CASES, ids=str)
def test_the_format_is_that_of_pytorch(shape: tuple[int, ...], layout: str) -> None:
    x = make(shape, layout)
    expected = functional.batch_norm(x, None, None, training=True)
    assert formats(x.contiguous(memory_format=memory_format(x))) == formats(expected)


def test_strides_of_dimensions_of_size_1_do_not_matter() -> None:
    x = torch.randn(300).as_strided((4, 5, 1, 6), (30, 1, 999, 5))
    assert is_channels_last(x)
    assert memory_format(x) is memory_format(x[..., ::2]) is torch.channels_last
    assert memory_format(torch.randn(300).as_strided((4, 5, 1, 6), (30, 6, 999, 1))) is torch.contiguous_format


@pytest.mark.parametrize("kernel", [reference, cpu, operators], ids=lambda kernel: kernel.__name__.rpartition(".")[2])
@pytest.mark.parametrize(("shape", "layout"), CASES, ids=str)
def test_results(shape: tuple[int, ...], layout: str, kernel: ModuleType) -> None:
    """y and dx are in the format for x, whatever that of dy."""
    single = make(shape, layout)
    ones = torch.ones(single.shape[1])
    transposed = torch.ones(single.movedim(0, -1).shape).movedim(-1, 0)
    gradients = (single, single.contiguous(), channels_last(single), torch.ones(()).expand(single.shape), transposed)
    for x in (single, single.half()):
        expected = formats(x.contiguous(memory_format=memory_format(x)))
        assert formats(kernel.normalize(x, ones, ones, None, None)) == expected
        assert formats(kernel.normalize(x, ones, ones, ones, ones, True)) == expected
        for dy in gradients:
            for means in ((ones, ones), (None, None)):
                assert formats(kernel.input_gradient(dy, x, ones, ones, None, None, *means)) == expected
                assert formats(kernel.input_gradient(dy, x, ones, ones, ones, ones, *means, True)) == expected


def test_copied_only_if_necessary() -> None:
    for x in (torch.randn(4, 5, 6, 3), channels_last(torch.randn(4, 5, 6, 3))):
        assert in_format_of(x, x) is x
    x, y = channels_last(torch.randn(4, 5, 6, 3)), torch.randn(4, 5, 6, 3)
    assert torch.equal(in_format_of(x, y), y)
    assert is_channels_last(in_format_of(x, y))
    assert torch.equal(in_format_of(y, x), x)
    assert in_format_of(y, x).is_contiguous()


@pytest.fixture(params=["cpu", "reference"])
def _each_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer with the kernel that it chooses, and with the reference kernel, as without Numba."""
    if request.param == "reference":
        monkeypatch.setattr(kernels, "_choose", lambda tensors: reference)


@pytest.mark.usefixtures("_each_kernel")
@pytest.mark.parametrize("training", [True, False])
def test_view_of_a_transposed_input(training: bool) -> None:
    layer = BatchNorm(3).train(training)
    x = torch.randn(4, 7, 3).transpose(1, 2).requires_grad_()
    assert layer(x).view(4, -1).shape == (4, 21)
    (dx,) = torch.autograd.grad(layer(x), x, torch.ones(7, 3, 4).permute(2, 1, 0))
    assert dx.is_contiguous()
    with torch.no_grad():
        assert layer(x).is_contiguous()


@pytest.mark.usefixtures("_each_kernel")
def test_double_backward() -> None:
    x = channels_last(torch.randn(4, 3, 5, 6)).requires_grad_()
    dy = torch.randn(4, 3, 5, 6, requires_grad=True)
    (dx,) = torch.autograd.grad(BatchNorm(3)(x), x, dy, create_graph=True)
    assert is_channels_last(dx)
    gradients = torch.autograd.grad(dx.pow(2).sum(), (x, dy))
    assert is_channels_last(gradients[0])


@pytest.mark.usefixtures("_each_kernel")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_outputs_can_be_modified(layout: str) -> None:
    """They are not views, on which autograd does not allow operations in place."""
    x = make((4, 5, 6, 3), layout).requires_grad_()
    layer = BatchNorm(5)
    (gradient,) = torch.autograd.grad(torch.relu_(layer(x)).pow(2).sum(), x)
    (expected,) = torch.autograd.grad(torch.relu(layer(x)).pow(2).sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("dim", range(5))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_vmap(layout: str, dim: int) -> None:
    """Batched tensors have a memory format of their own; `view` works as without vmap."""
    x = make((4, 5, 6, 3), layout)
    layer, inputs = BatchNorm(x.shape[1]).eval(), x.expand(2, *x.shape).movedim(0, dim)

    def flat(x: Tensor) -> Tensor:
        y: Tensor = layer(x)
        assert y.is_contiguous() or memory_format(x) is torch.channels_last
        return y.flatten(1)

    y = torch.func.vmap(flat, in_dims=dim)(inputs)
    torch.testing.assert_close(y[1], layer(x).flatten(1))
    gradient = torch.func.vmap(torch.func.grad(lambda x: flat(x).pow(2).sum()), in_dims=dim)(inputs)
    torch.testing.assert_close(gradient[1], torch.func.grad(lambda x: layer(x).pow(2).sum())(x))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["transposed", "slice of channels_last", "some channels of channels_last"])
def test_compiled(layout: str) -> None:
    """The strides are those that the compiler expects, also if the batch size varies."""
    torch.compiler.reset()
    x = make((4, 5, 6, 3), layout)
    layer = BatchNorm(x.shape[1])
    compiled = torch.compile(lambda x: layer(x) * 2, fullgraph=True, dynamic=True)
    for batch in (x, x[:3]):
        leaf = batch.detach().requires_grad_()
        y, expected = compiled(leaf), layer(leaf) * 2
        assert formats(y) == formats(expected)
        torch.testing.assert_close(y, expected)
        gradients = [torch.autograd.grad(output.pow(2).sum(), leaf) for output in (y, expected)]
        torch.testing.assert_close(*gradients)
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("layout", [lambda x: x, channels_last, lambda x: x.transpose(2, 3)])
def test_exported_with_a_batch_size_that_depends_on_the_data(layout: Layout) -> None:
    layer = BatchNorm(3).eval()

    class Selected(torch.nn.Module):
        def forward(self, x: Tensor, rows: Tensor) -> Tensor:
            y: Tensor = layer(layout(x[rows]))
            return y

    x, rows = torch.randn(6, 3, 4, 5), torch.tensor([True, True, False, True, False, True])
    program = torch.export.export(Selected(), (x, rows))
    for selected in (rows, ~rows):
        torch.testing.assert_close(program.module()(x, selected), layer(layout(x[selected])))
