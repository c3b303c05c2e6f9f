"""Derivatives of any order in either mode, `torch.export`, `torch.jit.trace` and `torch.fx.symbolic_trace`."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, fx, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.distributed.pipelining import SplitPoint, pipeline
from torch.func import functional_call, jacfwd, jacrev, jvp, vmap

from labml_bn.norm import BatchNorm, BatchNorm2d
from labml_bn.norm.transforms import is_observed, is_readable

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning"),  # also inside torch.func
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),  # the sizes of the input are constants of a trace
]

SHAPES = [(5, 3), (3, 2, 2), (2, 2, 1, 3)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(x: Tensor, eps: float) -> Tensor:
    """Batch normalization of [samples, channels] in differentiable operations."""
    centered = x - x.mean(0)
    return centered / torch.sqrt(centered.square().mean(0) + eps)


def mask_for(shape: tuple[int, ...], kind: str) -> Tensor | None:
    generator = torch.Generator().manual_seed(3)
    positions = shape[0], *shape[2:]
    if kind == "none":
        return None
    counts = torch.rand(positions, generator=generator) < 0.7
    return counts if kind == "bool" else counts * torch.rand(positions, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_first_and_second_derivatives(shape: tuple[int, ...], training: bool, affine: bool, kind: str) -> None:
    """Against finite differences: reverse and forward mode, reverse and forward over reverse, batched by `vmap`."""
    layer = BatchNorm(shape[1], eps=0.1, affine=affine, dtype=torch.float64).train(training)
    layer.running_mean = random(shape[1], seed=5)
    layer.running_var = random(shape[1], seed=6).exp()
    mask = mask_for(shape, kind)
    inputs = [random(*shape), *(random(shape[1], seed=seed) for seed in (1, 2) if affine)]
    inputs = [tensor.requires_grad_() for tensor in inputs]

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        names = dict(zip(("weight", "bias"), parameters, strict=False))
        y: Tensor = functional_call(layer, names, (x, mask))
        return y

    assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_higher_derivatives(order: int, training: bool) -> None:
    """All mixtures of both modes give the derivative tensor of plain operations, by autograd."""
    layer = BatchNorm(2, eps=0.1, affine=False, dtype=torch.float64).train(training)
    x = random(3, 2)

    def ours(x: Tensor) -> Tensor:
        cubed: Tensor = layer(x) ** 3
        return cubed.sum()

    def expected(x: Tensor) -> Tensor:
        return ((plain(x, 0.1) if training else x / (1.1**0.5)) ** 3).sum()

    def derivative(function: Callable[[Tensor], Tensor], modes: list[Any]) -> Tensor:
        for mode in modes:
            function = mode(function)
        return function(x)

    exact = derivative(expected, [jacrev] * order)
    for number in range(2**order):
        modes = [jacfwd if number >> place & 1 else jacrev for place in range(order)]
        torch.testing.assert_close(derivative(ours, modes), exact, rtol=1e-9, atol=1e-11)
    gradients: Any = ours(leaf := x.clone().requires_grad_())
    direction = random(3, 2, seed=4)
    for _ in range(order):  # autograd without torch.func: the custom backward pass, differentiated
        (gradient,) = torch.autograd.grad(gradients, leaf, create_graph=True)
        gradients = (gradient * direction).sum()
    for _ in range(order):
        exact = (exact * direction).sum((-2, -1))
    torch.testing.assert_close(gradients, exact, rtol=1e-9, atol=1e-11)


def test_nested_forward_mode() -> None:
    """Twice in different directions, by jvp and by dual numbers over reverse mode."""
    layer = BatchNorm(3, eps=0.1, affine=False, dtype=torch.float64)
    x, u, v = (random(5, 3, seed=seed) for seed in range(3))

    def second(function: Callable[[Tensor], Tensor]) -> Tensor:
        result: Tensor = jvp(lambda y: jvp(function, (y,), (u,))[1], (x,), (v,))[1]
        return result

    torch.testing.assert_close(second(layer), second(lambda y: plain(y, 0.1)))
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((plain(leaf, 0.1) ** 3).sum(), leaf, create_graph=True)
    (expected,) = torch.autograd.grad((gradient * v).sum(), leaf)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.clone().requires_grad_(), v)
        (gradient,) = torch.autograd.grad((layer(dual) ** 3).sum(), dual)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(gradient).tangent, expected)


def test_dual_gradients_of_an_ordinary_forward_pass() -> None:
    """The backward pass is linear in the gradient of the output, also in forward mode."""
    layer = BatchNorm(3, dtype=torch.float64)
    x, dy, tangent = random(5, 3).requires_grad_(), random(5, 3, seed=1), random(5, 3, seed=2)
    y = layer(x)
    (expected,) = torch.autograd.grad(y, x, tangent, retain_graph=True)
    with torch.autograd.forward_ad.dual_level():
        (gradient,) = torch.autograd.grad(y, x, torch.autograd.forward_ad.make_dual(dy, tangent))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(gradient).tangent, expected)


@pytest.mark.filterwarnings("ignore:.*torch._prims_common.check:FutureWarning")  # inside the compiler
def test_compiled_derivatives() -> None:
    """`torch.compile` takes the transforms of `torch.func` into its graph, in evaluation."""
    layer = BatchNorm(3, dtype=torch.float64).eval()
    x = random(5, 3)
    torch.compiler.reset()
    for transform, argument in ((jacrev, x), (jacfwd, x), (vmap, x.unsqueeze(1))):
        compiled = torch.compile(transform(lambda x: layer(x).sin()), fullgraph=True)
        expected = transform(lambda x: layer(x).sin())(argument)
        torch.testing.assert_close(compiled(argument), expected)


class Network(nn.Module):
    """A convolution and a linear layer, each with a batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm = BatchNorm(3, activation="relu", max_pool=2)
        self.layers = nn.Sequential(nn.Conv2d(1, 3, 3), norm, nn.Flatten(), nn.Linear(27, 4), BatchNorm(4)).double()

    def forward(self, x: Tensor) -> Tensor:
        """The output [batch, 4] of images [batch, 1, 8, 8]."""
        y: Tensor = self.layers(x)
        return y


def step(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor | None], dict[str, Tensor]]:
    """The output, the gradients of the input and of the parameters, and the running statistics after it."""
    x = x.clone().requires_grad_()
    y = network(x)
    (y**3).sum().backward()
    assert x.grad is not None
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    buffers = {name: buffer for name, buffer in network.named_buffers() if "running" in name}
    return y, x.grad, gradients, buffers


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_export(training: bool, strict: bool, decomposed: bool) -> None:
    """The exported network, and the one saved and loaded again, train as the original does."""
    network = Network().train(training)
    dynamic = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(network, (random(4, 1, 8, 8),), strict=strict, dynamic_shapes=dynamic)
    if decomposed:
        program = program.run_decompositions()
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    exported_networks = copy.deepcopy(program.module()), torch.export.load(saved).module()
    for exported, eager in zip(exported_networks, (copy.deepcopy(network), copy.deepcopy(network)), strict=True):
        for batch in range(2):
            x = random(6, 1, 8, 8, seed=batch)
            torch.testing.assert_close(step(exported, x), step(eager, x))


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_network_trains_as_the_original(strict: bool) -> None:
    """Thirty steps of gradient descent give the same losses."""
    network = Network()
    x, target = random(16, 1, 8, 8), torch.arange(16) % 4
    exported = torch.export.export(copy.deepcopy(network), (x,), strict=strict).module()
    losses = []
    for model in (exported, network):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(30):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:30] == pytest.approx(losses[30:], rel=1e-9)
    assert losses[-1] < losses[30] / 2


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_an_exported_network_can_be_compiled(training: bool, strict: bool) -> None:
    torch.compiler.reset()
    network = Network().train(training)
    x = random(6, 1, 8, 8)
    exported = torch.export.export(copy.deepcopy(network), (x,), strict=strict).module()
    compiled = torch.compile(exported, fullgraph=True, backend="aot_eager")
    x = x.requires_grad_()
    y, expected = compiled(x), network(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad((y**3).sum(), x), torch.autograd.grad((expected**3).sum(), x))


def test_pipeline_stages() -> None:
    """`torch.distributed.pipelining` exports a network in training; its stages train as the network does."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), BatchNorm(6), nn.Tanh(), nn.Linear(6, 5), BatchNorm(5)).double()
    x = random(8, 4)
    split = pipeline(copy.deepcopy(network), mb_args=(x,), split_spec={"3": SplitPoint.BEGINNING})
    stages = [split.get_stage_module(number) for number in range(split.num_stages)]
    assert len(stages) == 2
    y, expected = stages[1](stages[0](x)), network(x)
    torch.testing.assert_close(y, expected)
    (y**3).sum().backward()
    (expected**3).sum().backward()
    gradients = {name: parameter.grad for stage in stages for name, parameter in stage.named_parameters()}
    torch.testing.assert_close(gradients, {name: parameter.grad for name, parameter in network.named_parameters()})
    buffers = {name: buffer for stage in stages for name, buffer in stage.named_buffers()}
    torch.testing.assert_close(buffers, dict(network.named_buffers()))


def test_export_with_a_mask() -> None:
    layer = BatchNorm(3, dtype=torch.float64)
    x, mask = random(5, 3, 4), mask_for((5, 3, 4), "bool")
    program = torch.export.export(layer, (x, mask)).module()
    expected = copy.deepcopy(layer)
    torch.testing.assert_close(program(x, mask), expected(x, mask))
    torch.testing.assert_close(program.running_var, expected.running_var)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the older exporter
@pytest.mark.parametrize("kind", ["none", "bool", "float"])
@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx(dynamo: bool, kind: str, tmp_path: Path) -> None:
    """With and without a mask, by both exporters."""
    layer = BatchNorm(3, activation="relu")
    layer(torch.randn(5, 3, 4))
    mask = mask_for((5, 3, 4), kind)
    inputs = (torch.randn(5, 3, 4),) if mask is None else (torch.randn(5, 3, 4), mask)
    torch.onnx.export(layer.eval(), inputs, tmp_path / "layer.onnx", dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx", providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]
    (y,) = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
    torch.testing.assert_close(torch.from_numpy(y), layer(*inputs))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_jit_script_is_refused() -> None:
    for network in (BatchNorm(3), nn.Sequential(nn.Linear(2, 3), BatchNorm2d(3))):
        with pytest.raises(NotImplementedError, match=r"script does not support BatchNorm: use torch.jit.trace"):
            torch.jit.script(network)


@pytest.mark.parametrize("training", [True, False])
def test_jit_trace(training: bool) -> None:
    """A traced network can be saved and loaded."""
    network = Network().train(training)
    traced = torch.jit.trace(network, random(4, 1, 8, 8), check_trace=False)
    saved = io.BytesIO()
    torch.jit.save(traced, saved)
    saved.seek(0)
    x = random(4, 1, 8, 8, seed=1)
    loaded, expected = torch.jit.load(saved), copy.deepcopy(network)
    torch.testing.assert_close(step(loaded, x)[:2], step(expected, x)[:2])


@pytest.mark.parametrize("training", [True, False])
def test_symbolic_trace(training: bool) -> None:
    """Each layer is one node of the graph, which follows `train()` and `eval()`, as PyTorch's layers are."""
    network = Network().train(training)
    traced = fx.symbolic_trace(network)
    traced.graph.lint()
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == [
        f"layers.{index}" for index in range(5)
    ]
    for mode in (training, not training):
        original = copy.deepcopy(network).train(mode)
        x = random(4, 1, 8, 8)
        torch.testing.assert_close(step(copy.deepcopy(traced).train(mode), x), step(original, x))


def test_symbolic_trace_with_a_mask() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = BatchNorm(3, dtype=torch.float64)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            y: Tensor = self.norm(x, mask=mask)
            return y

    network = Masked()
    traced = fx.symbolic_trace(network)
    x, mask = random(5, 3, 4), mask_for((5, 3, 4), "bool")
    assert mask is not None
    torch.testing.assert_close(traced(x, mask), copy.deepcopy(network)(x, mask))


def test_symbolic_trace_refuses_hooks() -> None:
    """They would run when the layer is traced, and again in the graph."""
    network = Network()
    network.layers[1].register_forward_hook(lambda layer, args, y: 2 * y)
    with pytest.raises(ValueError, match="cannot trace a layer with hooks: make it a leaf"):
        fx.symbolic_trace(network)


def test_symbolic_trace_refuses_a_layer_alone() -> None:
    """A layer is a node of the graph of a network, and cannot be one of its own."""
    layer = BatchNorm(3)
    with pytest.raises(ValueError, match=r"trace torch.nn.Sequential\(layer\)"):
        fx.symbolic_trace(layer)
    assert fx.symbolic_trace(nn.Sequential(layer))(torch.randn(4, 3)).shape == (4, 3)


def test_what_is_observed() -> None:
    x = torch.ones(2)
    assert not is_observed()
    assert is_readable(x)

    def look(x: Tensor) -> Tensor:
        assert is_observed()
        assert not is_readable(x)
        return x

    vmap(look)(x)
    with torch.autograd.forward_ad.dual_level():
        assert is_observed()
        assert is_readable(x)
    assert not is_readable(torch.ones(2, device="meta"))
