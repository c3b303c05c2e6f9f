"""Running statistics that stay as they are: for a block, as in SAM's second pass, or until `unfreeze`."""

import copy
import io
import pickle
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labml_bn.norm import (
    BatchNorm,
    convert_batch_norm,
    estimate_population,
    fold,
    freeze,
    frozen_statistics,
    restore_batch_norm,
    unfreeze,
)
from labml_bn.norm.hooks import evaluating

LAYERS: dict[str, Callable[[int], nn.Module]] = {"BatchNorm": BatchNorm, "PyTorch's": nn.BatchNorm1d}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(layer: Callable[[int], nn.Module] = BatchNorm) -> nn.Sequential:
    """With running statistics that are neither the initial ones nor those of a batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), layer(4), nn.Tanh(), nn.Linear(4, 2), layer(2)).double()
    model(3 * random(20, 3, seed=9) + 1)
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """The names of the buffers and parameters that differ."""
    after = state(model)
    assert list(after) == list(before)
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def plain_net(model: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output of `net` in training and its running statistics after the batch, from the definitions."""
    running = {}
    for number in (0, 3):
        x = x @ parameters[f"{number}.weight"].mT + parameters[f"{number}.bias"]
        mean, var = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
        for name, value in (("mean", mean), ("var", var * len(x) / (len(x) - 1))):
            name = f"{number + 1}.running_{name}"
            running[name] = (0.9 * model.get_buffer(name) + 0.1 * value).detach()
        xhat = (x - mean) / torch.sqrt(var + 1e-5)
        x = xhat * parameters[f"{number + 1}.weight"] + parameters[f"{number + 1}.bias"]
        x = torch.tanh(x) if number == 0 else x
    return x, running


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_sharpness_aware_minimization(layer: Callable[[int], nn.Module]) -> None:
    """One step of SAM: the gradient at the weights plus ρ g / |g|, and statistics of the first forward pass only."""
    model, x, target, rho, rate = net(layer), random(8, 3), random(8, 2, seed=1), 0.5, 0.1

    # the expected weights and statistics
    weights = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    y, running = plain_net(model, weights, x)
    gradients = torch.autograd.grad((y - target).square().sum(), list(weights.values()))
    scale = rho / torch.sqrt(sum((g**2).sum() for g in gradients))  # type: ignore[arg-type]
    moved = {
        name: (value + scale * gradient).detach().requires_grad_()
        for (name, value), gradient in zip(weights.items(), gradients, strict=True)
    }
    gradients = torch.autograd.grad((plain_net(model, moved, x)[0] - target).square().sum(), list(moved.values()))
    expected = {
        name: value - rate * gradient for (name, value), gradient in zip(weights.items(), gradients, strict=True)
    }

    # the step as it is written in practice
    optimizer = torch.optim.SGD(model.parameters(), rate)
    (model(x) - target).square().sum().backward()
    with torch.no_grad():
        norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]))
        steps = [rho / norm * p.grad for p in model.parameters() if p.grad is not None]
        torch._foreach_add_(list(model.parameters()), steps)
    optimizer.zero_grad()
    with frozen_statistics(model):
        (model(x) - target).square().sum().backward()
    with torch.no_grad():
        torch._foreach_sub_(list(model.parameters()), steps)
    optimizer.step()

    torch.testing.assert_close(dict(model.named_parameters()), {k: v.detach() for k, v in expected.items()})
    for name, value in running.items():
        torch.testing.assert_close(model.get_buffer(name), value)
    assert model.get_buffer("1.num_batches_tracked") == 2


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_outputs_and_gradients_in_a_block(layer: Callable[[int], nn.Module], training: bool) -> None:
    model, x = net(layer).train(training), random(8, 3)
    expected = copy.deepcopy(model)
    before = state(model)
    with frozen_statistics(model):
        y = model(x)
        y.square().sum().backward()
    assert not changed(model, before)
    torch.testing.assert_close(y, expected(x), rtol=0, atol=0)
    expected(x).square().sum().backward()
    for parameter, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
    model(x)
    assert (model.get_buffer("1.num_batches_tracked") == 2) == training


def test_blocks_are_nested_and_end_with_an_exception() -> None:
    shared = BatchNorm(3)
    without = nn.BatchNorm1d(3, track_running_stats=False)
    model = nn.Sequential(shared, shared, without)
    x = random(4, 3).float()

    def interrupted() -> None:
        with frozen_statistics(model):
            with frozen_statistics(shared):
                model(x)
            model(x)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert shared.num_batches_tracked == 0
    assert (shared.track_running_stats, without.track_running_stats) == (True, False)
    model(x)
    assert shared.num_batches_tracked == 2


def test_blocks_that_overlap() -> None:
    """Blocks of generators and threads need not end in the reverse order; the last one to end restores the layers."""
    model = nn.Sequential(BatchNorm(3), nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    tracking = [True, True, False]
    blocks = [frozen_statistics(model) for _ in range(3)]
    for block in blocks:
        block.__enter__()
    for block in blocks:
        assert not any(layer.track_running_stats for layer in model)
        block.__exit__(None, None, None)
    assert [layer.track_running_stats for layer in model] == tracking


def test_blocks_in_threads() -> None:
    model = nn.Sequential(*(BatchNorm(3) for _ in range(20)))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def use() -> None:
            for _ in range(200):
                with frozen_statistics(model):
                    assert not any(layer.track_running_stats for layer in model)

        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(use) for _ in range(4)]:
                done.result()
    finally:
        sys.setswitchinterval(interval)
    assert all(layer.track_running_stats for layer in model)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_block_in_a_compiled_function(layer: Callable[[int], nn.Module]) -> None:
    torch.compiler.reset()
    model = net(layer)

    def both(x: Tensor) -> Any:
        with frozen_statistics(model):
            y = model(2 * x)
        return y + model(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in (2, 3):
            torch.compile(both, fullgraph=True, backend="aot_eager")(random(8, 3))
            assert model.get_buffer("1.num_batches_tracked") == step
    assert all(each.track_running_stats for each in (model[1], model[4]))
    torch.compiler.reset()


def test_block_around_a_compiled_network() -> None:
    """The graphs of both states are kept: alternating between them compiles nothing again."""
    torch.compiler.reset()
    model = net()
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast: Any = torch.compile(model, fullgraph=True, backend=backend)
        for step in range(2, 5):
            fast(random(8, 3))
            before = state(model)
            assert before["1.num_batches_tracked"] == step
            with frozen_statistics(fast):
                fast(random(8, 3))
            assert not changed(model, before)
    assert len(graphs) == 2
    torch.compiler.reset()


def test_frozen_layer_normalizes_with_its_running_statistics() -> None:
    model, x = freeze(net()).train(), random(8, 3)
    before = state(model)
    loss = model(x).square().sum()
    loss.backward()
    assert not changed(model, before)

    weights = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    y = x
    for number in (0, 3):
        y = y @ weights[f"{number}.weight"].mT + weights[f"{number}.bias"]
        mean, var = before[f"{number + 1}.running_mean"], before[f"{number + 1}.running_var"]
        y = (y - mean) / torch.sqrt(var + 1e-5) * weights[f"{number + 1}.weight"] + weights[f"{number + 1}.bias"]
        y = torch.tanh(y) if number == 0 else y
    gradients = torch.autograd.grad(y.square().sum(), list(weights.values()))
    torch.testing.assert_close(loss, y.square().sum())
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=name)


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_modes() -> None:
    """`train` reaches all but the frozen layers; `unfreeze` gives these the mode that was last asked for."""
    model = net()
    layer = model[1]
    assert isinstance(layer, BatchNorm)
    assert freeze(layer) is layer
    assert layer.frozen
    assert not model.get_submodule("4").frozen
    assert modes(model) == [True, True, False, True, True, True]
    assert modes(model.train()) == [True, True, False, True, True, True]
    assert modes(model.eval()) == [False] * 6
    assert modes(freeze(freeze(model))) == [False] * 6
    assert modes(model.train()) == [True, True, False, True, True, False]
    assert unfreeze(model) is model
    assert modes(model) == [True] * 6
    assert modes(unfreeze(freeze(model.eval()))) == [False] * 6
    assert modes(unfreeze(freeze(model.train()))) == [True] * 6
    assert modes(unfreeze(freeze(model).eval())) == [False] * 6
    assert modes(unfreeze(model.train())) == [True] * 6
    assert "frozen" not in vars(layer)


def test_only_the_statistics_are_frozen() -> None:
    model = freeze(net()).train()
    before = state(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(random(8, 3)).pow(3).sum().backward()
    optimizer.step()
    assert changed(model, before) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_frozen(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = freeze(net())
    copies = copied(model)
    assert not copies.train().get_submodule("1").training
    assert unfreeze(copies).get_submodule("1").training
    assert not model.train()[1].training


def test_state_dicts_are_those_of_layers_that_are_not_frozen() -> None:
    model, frozen = net(), freeze(net())
    assert not changed(frozen, state(model))
    saved = io.BytesIO()
    torch.save(frozen.state_dict(), saved)
    saved.seek(0)
    loaded = BatchNorm(4).double()
    loaded.load_state_dict({name.removeprefix("1."): v for name, v in torch.load(saved).items() if name[0] == "1"})
    assert not loaded.frozen
    other = freeze(nn.Sequential(BatchNorm(4).double()))
    other[0].load_state_dict(loaded.state_dict())
    assert not changed(other[0], state(loaded))
    assert other.get_submodule("0").frozen


def test_compiled_layer_stays_in_evaluation() -> None:
    compiled: Any = torch.compile(BatchNorm(3), backend="eager")
    assert not freeze(compiled).train()._orig_mod.training
    assert unfreeze(compiled)._orig_mod.training


def test_layers_that_cannot_be_frozen() -> None:
    model = nn.Sequential(BatchNorm(3), nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(ValueError, match=r"layer '1\.0', a BatchNorm1d: call convert_batch_norm\(model\) first"):
        freeze(model)
    assert not model.get_submodule("0").frozen
    freeze(convert_batch_norm(model))
    for other in (nn.SyncBatchNorm(3), nn.LazyBatchNorm1d(), type("Own", (nn.BatchNorm2d,), {})(3)):
        with pytest.raises(ValueError, match=r"layer '0', a .*: it is not a BatchNorm of this project"):
            freeze(nn.Sequential(other))
    with pytest.raises(ValueError, match=r"layer '1': no running statistics \(track_running_stats=False\)"):
        freeze(nn.Sequential(BatchNorm(3), BatchNorm(3, track_running_stats=False)))


def test_evaluating_leaves_frozen_layers_frozen() -> None:
    model = freeze(net()).train()
    before = modes(model)
    with evaluating(model):
        assert not any(modes(model))
    assert modes(model) == before
    assert all(modes(unfreeze(model)))


@pytest.mark.parametrize("estimator", ["whole", "batches"])
def test_population_of_frozen_layers(estimator: str) -> None:
    """It is an explicit request, so it sets the statistics of frozen layers as it does for others."""
    model, frozen = net(), freeze(net()).train()
    batches = [random(8, 3, seed=seed) for seed in range(3)]
    for each in (model, frozen):
        estimate_population(each, batches, estimator=estimator)
    assert changed(model, state(net())) == {f"{n}.running_{kind}" for n in (1, 4) for kind in ("mean", "var")}
    assert not changed(frozen, state(model))
    assert modes(frozen) == [True, True, False, True, True, False]


def test_folding_and_restoring_frozen_layers() -> None:
    model = freeze(net()).train()
    x = random(8, 3)
    torch.testing.assert_close(fold(copy.deepcopy(model).eval())(x), model(x))
    with pytest.raises(ValueError, match=r"layer '1': it is frozen; call unfreeze\(model\) first"):
        restore_batch_norm(model, x)
    assert [type(layer) for layer in restore_batch_norm(unfreeze(model), x)][1] is nn.BatchNorm1d
