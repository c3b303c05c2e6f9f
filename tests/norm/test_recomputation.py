"""Under activation checkpointing each batch counts once in the running statistics, eager or compiled."""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential, set_checkpoint_early_stop

from labml_bn.norm import BatchNorm, Renormalization, frozen_statistics

Forward = Callable[[nn.Module, Tensor], Any]

FIRST_BATCH, SECOND_BATCH = (
    torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)).double() for seed in (1, 2)
)


def net(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 4), BatchNorm(4, **options), nn.Tanh(), nn.Linear(4, 2), BatchNorm(2, **options), nn.Tanh()
    ).double()


def statistics(momentum: float | None, model: nn.Module, *batches: Tensor) -> dict[str, Tensor]:
    """The running statistics of `net` after one forward pass with each batch, from the definitions."""
    running: dict[str, Tensor] = {}
    for number, x in enumerate(batches, start=1):
        for layer in (1, 4):
            x = x @ model.get_parameter(f"{layer - 1}.weight").mT + model.get_parameter(f"{layer - 1}.bias")
            mean, var = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
            weight = 1 / number if momentum is None else momentum
            for name, start, value in (("mean", 0.0, mean), ("var", 1.0, var * len(x) / (len(x) - 1))):
                before = running.get(f"{layer}.running_{name}", torch.full_like(value, start))
                running[f"{layer}.running_{name}"] = ((1 - weight) * before + weight * value).detach()
            running[f"{layer}.num_batches_tracked"] = torch.tensor(number)
            x = torch.tanh((x - mean) / torch.sqrt(var + 1e-5))
    return running


def assert_counted_once(forward: Forward, momentum: float | None, backwards: int = 1) -> None:
    """Two batches, each with some backward passes, give the running statistics of two forward passes, and the gradients
    of a network without checkpoints."""
    model, plain = net(momentum=momentum), net(momentum=momentum)
    for x in (FIRST_BATCH, SECOND_BATCH):
        loss, expected = forward(model, x.clone().requires_grad_()).square().sum(), plain(x).square().sum()
        for remaining in reversed(range(backwards)):
            loss.backward(retain_graph=remaining > 0)
            expected.backward(retain_graph=remaining > 0)
    torch.testing.assert_close(dict(model.named_buffers()), statistics(momentum, model, FIRST_BATCH, SECOND_BATCH))
    for parameter, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)


def without_early_stop(model: nn.Module, x: Tensor, use_reentrant: bool) -> Any:
    with set_checkpoint_early_stop(False):
        return checkpoint(model, x, use_reentrant=use_reentrant)


def nested(model: nn.Sequential, x: Tensor, use_reentrant: bool) -> Any:
    def two_parts(x: Tensor) -> Any:
        y = checkpoint(model[:3], x, use_reentrant=use_reentrant)
        return checkpoint(model[3:], y, use_reentrant=use_reentrant)

    return checkpoint(two_parts, x, use_reentrant=use_reentrant)


WAYS: dict[str, Callable[..., Any]] = {
    "checkpoint": lambda model, x, **mode: checkpoint(model, x, **mode),
    "without early stop": without_early_stop,
    "checkpoint_sequential": lambda model, x, **mode: checkpoint_sequential(model, 2, x, **mode),
    "nested": nested,
}


#: A reentrant checkpoint runs the forward pass without gradients, so a checkpoint in it gets an input without.
NO_GRADIENT_YET = "ignore:None of the inputs have requires_grad=True"


@pytest.mark.filterwarnings(NO_GRADIENT_YET)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_counts_once(way: str, use_reentrant: bool, momentum: float | None) -> None:
    assert_counted_once(lambda model, x: WAYS[way](model, x, use_reentrant=use_reentrant), momentum)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_several_backward_passes(use_reentrant: bool) -> None:
    """Each of them recomputes the forward pass."""
    assert_counted_once(lambda model, x: checkpoint(model, x, use_reentrant=use_reentrant), 0.1, backwards=3)


def test_gradient_penalty() -> None:
    """A forward pass before `autograd.grad` is an ordinary one, even if its gradient is differentiated."""
    model = net()
    x = FIRST_BATCH.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(checkpoint(model, x, use_reentrant=False).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    torch.testing.assert_close(dict(model.named_buffers()), statistics(0.1, model, FIRST_BATCH))


def test_own_autograd_function() -> None:
    """A recomputation is recognized in whichever way it was started."""

    class Recompute(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, model: nn.Module) -> Any:
            ctx.model = model
            ctx.save_for_backward(x)
            return model(x)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            x = ctx.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad():
                ctx.model(x).backward(*gradients)
            return x.grad, None

    assert_counted_once(lambda model, x: Recompute.apply(x, model), 0.1)


RENORM = Renormalization(start=0, r_end=0, d_end=0)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_batch_renormalization_is_refused(use_reentrant: bool) -> None:
    """Its second pass would use other running statistics than the first. With frozen ones, it does not."""
    model = net(renorm=RENORM)
    x = FIRST_BATCH.clone().requires_grad_()
    y = checkpoint(model, x, use_reentrant=use_reentrant)
    with pytest.raises(RuntimeError, match="batch renormalization does not support activation checkpointing"):
        y.sum().backward()
    torch.testing.assert_close(model.get_buffer("1.num_batches_tracked"), torch.tensor(1))
    with frozen_statistics(model):
        checkpoint(model, x, use_reentrant=use_reentrant).square().sum().backward()
        (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    torch.testing.assert_close(x.grad, expected)


def test_new_forward_pass_in_a_hook_is_not_counted() -> None:
    """The documented limit: it cannot be told from a recomputation."""
    model = net()
    x = FIRST_BATCH.clone().requires_grad_()
    y = model(x)
    x.register_hook(lambda gradient: model(SECOND_BATCH).sum() * gradient)
    y.square().sum().backward()
    torch.testing.assert_close(dict(model.named_buffers()), statistics(0.1, model, FIRST_BATCH))


@pytest.mark.parametrize(("use_reentrant", "message"), [(True, "setup_context"), (False, "saved tensor hooks")])
def test_within_transforms(use_reentrant: bool, message: str) -> None:
    """PyTorch refuses checkpoints there."""
    model = net()
    with pytest.raises(RuntimeError, match=message):
        torch.func.grad(lambda x: checkpoint(model, x, use_reentrant=use_reentrant).sum())(FIRST_BATCH)


@pytest.fixture
def compiled() -> Iterator[Callable[..., Any]]:
    """`torch.compile` without graph breaks and cached graphs, and with its internal deprecation warnings ignored."""
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield functools.partial(torch.compile, fullgraph=True)
    torch.compiler.reset()


def compiled_layers(compiled: Any, model: nn.Sequential, x: Tensor, use_reentrant: bool) -> Any:
    for layer in model:
        if isinstance(layer, BatchNorm):
            layer.forward = compiled(layer.forward)  # type: ignore[method-assign]
    return checkpoint(model, x, use_reentrant=use_reentrant)


def graph_break(compiled: Any, model: nn.Sequential, x: Tensor, use_reentrant: bool) -> Any:
    def in_two_graphs(x: Tensor) -> Any:
        y = model[:3](x)
        torch._dynamo.graph_break()
        return model[3:](y)

    return compiled(lambda x: checkpoint(in_two_graphs, x, use_reentrant=use_reentrant), fullgraph=False)(x)


#: A checkpoint within the compiled function, which recomputes in its own graph; and around it: its graph runs twice.
COMPILED_WAYS: dict[str, Callable[..., Any]] = {
    "inside": lambda compiled, model, x, **mode: compiled(WAYS["checkpoint"])(model, x, **mode),
    "nested inside": lambda compiled, model, x, **mode: compiled(nested)(model, x, **mode),
    "around": lambda compiled, model, x, **mode: checkpoint(compiled(model), x, **mode),
    "around compiled layers": compiled_layers,
    "around, nested": lambda compiled, model, x, **mode: nested(nn.Sequential(*map(compiled, model)), x, **mode),
    "with a graph break": graph_break,
}


@pytest.mark.slow
@pytest.mark.filterwarnings(NO_GRADIENT_YET)
@pytest.mark.parametrize(("backend", "momentum"), [("inductor", 0.1), ("aot_eager", None)])
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("way", COMPILED_WAYS)
def test_compiled(
    compiled: Callable[..., Any], way: str, use_reentrant: bool, backend: str, momentum: float | None
) -> None:
    compiled = functools.partial(compiled, backend=backend)
    assert_counted_once(lambda model, x: COMPILED_WAYS[way](compiled, model, x, use_reentrant=use_reentrant), momentum)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["inside", "around"])
@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_compiled_batch_renormalization_is_refused(compiled: Callable[..., Any], way: str, backend: str) -> None:
    compiled = functools.partial(compiled, backend=backend)
    y = COMPILED_WAYS[way](compiled, net(renorm=RENORM), FIRST_BATCH.clone().requires_grad_(), use_reentrant=False)
    with pytest.raises(RuntimeError, match="batch renormalization does not support activation checkpointing"):
        y.sum().backward()


@pytest.mark.slow
def test_graph_compiled_within_a_backward_pass(compiled: Any) -> None:
    """What the compiler sees at this moment does not become a constant."""
    model = net()
    step = compiled(model, backend="aot_eager")
    x = torch.ones(1, requires_grad=True)
    x.register_hook(lambda gradient: step(FIRST_BATCH).sum() * gradient)
    x.sum().backward()
    assert model.get_buffer("1.num_batches_tracked") == 0
    step(SECOND_BATCH)
    torch.testing.assert_close(dict(model.named_buffers()), statistics(0.1, model, SECOND_BATCH))


@pytest.mark.slow
def test_compiled_backward_pass(compiled: Any) -> None:
    """With compiled autograd the recomputation is a part of the graph of the backward pass."""

    def forward(model: nn.Module, x: Tensor) -> Any:
        return checkpoint(model, x, use_reentrant=False)

    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        assert_counted_once(forward, 0.1)


def test_an_exported_program_needs_no_operator_of_this_package() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings inside older torch
        program = torch.export.export(net(), (FIRST_BATCH,))
    assert "labml_bn" not in program.graph_module.code
    module = program.module()
    module(FIRST_BATCH)
    torch.testing.assert_close(dict(module.named_buffers()), statistics(0.1, net(), FIRST_BATCH))
