"""The passes: what they measure, that they leave the network as it was, and what they refuse."""

import copy
import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bn import BatchNorm, estimate_population
from labml_bn.norm import diagnose
from labml_bn.norm.diagnosis.passes import Passes

LAYERS = [BatchNorm, nn.BatchNorm1d]


def network(layer: Any = BatchNorm, **options: Any) -> Any:
    torch.manual_seed(0)
    linear = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)
    model = nn.Sequential(linear[0], layer(6, **options), nn.ReLU(), linear[1], layer(5, **options), linear[2]).double()
    for x, _ in batches(5):
        model(x)
    return model


def batches(count: int = 6, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count * size, 4, dtype=torch.float64, generator=generator) * 2 + 1
    return list(zip(x.split(size), (x[:, 0] > 1).long().split(size), strict=True))


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that a diagnosis may not change."""
    return {
        "tensors": {name: value.clone() for name, value in model.state_dict(keep_vars=True).items()},
        "same tensors": {name: id(value) for name, value in model.state_dict(keep_vars=True).items()},
        "versions": {name: value._version for name, value in model.state_dict(keep_vars=True).items()},
        "gradients": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "hooks": [
            {number: id(hook) for number, hook in {**module._forward_pre_hooks, **module._forward_hooks}.items()}
            for module in model.modules()
        ],
        "attributes": [(getattr(m, "momentum", 0), getattr(m, "track_running_stats", 0)) for m in model.modules()],
        "random": torch.get_rng_state(),
        "gradient mode": torch.is_grad_enabled(),
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("unbiased", [True, False])
def test_population(layer: Any, unbiased: bool) -> None:
    """That of `estimate_population`, whatever the running statistics are."""
    model = network(layer)
    if layer is BatchNorm:
        model[1].unbiased = model[4].unbiased = unbiased
    model[1].running_var.fill_(100)
    passes = Passes(model, batches(), None, None)
    estimate_population(model, batches(), estimator="batches")
    for name in ("1", "4"):
        mean, var = passes.layers[name].population
        torch.testing.assert_close(mean, model.get_submodule(name).running_mean, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(var, model.get_submodule(name).running_var, rtol=1e-12, atol=1e-14)


def reference(model: nn.Module, x: Tensor, choices: dict[int, str], found: dict[int, Any]) -> Tensor:
    """The network's output in plain arithmetic, where each layer has the `batch`, `running` or `population` ones."""
    w = {name: value.detach() for name, value in model.state_dict().items()}
    for i in (0, 3, 5):
        x = x @ w[f"{i}.weight"].T + w[f"{i}.bias"]
        if i < 5:
            n = i + 1
            running = w[f"{n}.running_mean"], w[f"{n}.running_var"]
            batch = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
            mean, var = {"batch": batch, "running": running, "population": found[n]}[choices[n]]
            x = (x - mean) / (var + 1e-5).sqrt() * w[f"{n}.weight"] + w[f"{n}.bias"]
            x = x.clamp(min=0) if i == 0 else x
    return x


def test_outcomes() -> None:
    """The loss, and the change of the output, with each choice of statistics, in plain arithmetic."""
    model = network()
    model[1].running_mean.add_(1)
    evaluation = [(x + 1, t) for x, t in batches(2)]
    with_loss = Passes(model, batches(), evaluation, F.cross_entropy)
    without = Passes(model, [x for x, _ in batches()], None, None)
    found = {int(name): inputs.population for name, inputs in with_loss.layers.items()}
    running = {1: "running", 4: "running"}
    choices = {
        "running": running,
        "batch": dict.fromkeys(running, "batch"),
        "population": dict.fromkeys(running, "population"),
        "1": {**running, 1: "population"},
        "4": {**running, 4: "population"},
    }
    x, target = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    normal = reference(model, x, running, found)
    for name, choice in choices.items():
        output = torch.cat([reference(model, part, choice, found) for part, _ in batches()])
        log_probabilities = output - output.exp().sum(1, keepdim=True).log()
        loss = -log_probabilities.gather(1, target[:, None]).mean().item()
        assert with_loss.outcomes[name] == pytest.approx(loss, rel=1e-10)
        change = ((output - normal).square().sum() / normal.square().sum()).sqrt().item()
        assert without.outcomes[name] == pytest.approx(change, rel=1e-10, abs=1e-14)
    shifted = torch.cat([reference(model, part, running, found) for part, _ in evaluation])
    loss = F.cross_entropy(shifted, torch.cat([t for _, t in evaluation])).item()
    assert with_loss.outcomes["evaluation"] == pytest.approx(loss, rel=1e-10)


def test_number_of_passes() -> None:
    """As the docstring of `diagnose` says: two passes over the training data, one over the evaluation data."""
    counts = {"training": 0, "evaluation": 0, "forward": 0}

    class Counted:
        def __init__(self, name: str, data: list[Any]) -> None:
            self.name, self.data = name, data

        def __iter__(self) -> Iterator[Any]:
            counts[self.name] += 1
            return iter(self.data)

    model = network()
    with torch.no_grad():
        handle = model.register_forward_pre_hook(lambda *_: counts.update(forward=counts["forward"] + 1))
        diagnose(
            model, Counted("training", batches(3)), evaluation=Counted("evaluation", batches(4)), loss=F.cross_entropy
        )
    handle.remove()
    assert counts == {"training": 2, "evaluation": 1, "forward": 3 * (4 + 2) + 4 * 2}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_nothing_changes(layer: Any, training: bool) -> None:
    model = network(layer, momentum=None).train(training)
    model[4].train(not training)
    model[0].register_forward_pre_hook(lambda *_: None)
    F.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
    pending = model(batches()[0][0]).sum()
    before = state(model)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*map(torch.cat, zip(*batches(), strict=True))), batch_size=16, shuffle=True
    )
    diagnose(model, loader, evaluation=loader, loss=F.cross_entropy)
    diagnose(model, loader)
    assert_same(state(model), before)
    pending.backward()  # the saved running statistics were not written to


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_at_any_moment(error: type[BaseException]) -> None:
    """In each forward pass of a layer, each loss and each batch."""
    model = network()
    calls = itertools.count()
    at = -1

    def tick() -> None:
        if next(calls) == at:
            raise error

    class Ticking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            tick()
            return x

    def loss(output: Tensor, target: Tensor) -> Tensor:
        tick()
        return F.cross_entropy(output, target)

    def data() -> Iterator[Any]:
        for batch in batches(2):
            tick()
            yield batch

    model.insert(2, Ticking())
    before = state(model)
    diagnose(model, data(), evaluation=data(), loss=loss)
    for moment in range(next(calls)):
        calls, at = itertools.count(), moment
        with pytest.raises(error):
            diagnose(model, data(), evaluation=data(), loss=loss)
        assert_same(state(model), before)


def test_modules_that_change_their_buffers_in_evaluation() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))
            self.seen: Tensor

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            torch.rand(3)
            return x

    model = nn.Sequential(Counting(), network())
    before = state(model)
    diagnose(model, [x for x, _ in batches()])
    assert_same(state(model), before)


def test_layers_that_are_called_by_keyword_twice_or_never() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.unused = BatchNorm(4).double(), BatchNorm(7)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(input=self.norm(x) * 3)
            return y

    diagnosis = diagnose(Odd(), [x for x, _ in batches()])
    norm, unused = diagnosis.layers
    assert (norm.calls, unused.calls) == (2, 0)
    assert [finding.cause for finding in diagnosis.findings] == ["never_updated", "repeated_calls"]
    assert {finding.layers for finding in diagnosis.findings} == {("norm",)}


def test_frozen_layers_keep_their_statistics() -> None:
    """In training too, so they are neither measured as in training nor replaced by the population's."""
    model = network(nn.BatchNorm1d)
    model[1].frozen = True
    model[1].eval()
    model[1].running_mean.add_(5)
    diagnosis = diagnose(model, batches(), loss=F.cross_entropy)
    first, second = diagnosis.layers
    assert (first.frozen, second.frozen) == (True, False)
    assert not [finding for finding in diagnosis.findings if "1" in finding.layers]
    passes = Passes(model, batches(), None, F.cross_entropy)
    found = {4: passes.layers["4"].population}
    target = torch.cat([target for _, target in batches()])
    for choice, name in (("batch", "batch"), ("population", "population")):
        parts = [reference(model, part, {1: "running", 4: choice}, {**found, 1: None}) for part, _ in batches()]
        assert passes.outcomes[name] == pytest.approx(F.cross_entropy(torch.cat(parts), target).item(), rel=1e-10)


def test_data() -> None:
    """Lists, generators, loaders and empty batches give the same."""
    model = network()
    expected = str(diagnose(model, batches(), loss=F.cross_entropy))
    assert str(diagnose(model, iter(batches()), loss=F.cross_entropy)) == expected
    empty = (torch.zeros(0, 4, dtype=torch.float64), torch.zeros(0, dtype=torch.int64))
    assert str(diagnose(model, [*batches(), empty], loss=F.cross_entropy)) == expected
    assert str(diagnose(model, [list(batch) for batch in batches()], loss=F.cross_entropy)) == expected


def test_inputs_with_three_dimensions() -> None:
    model = nn.Sequential(nn.Conv3d(1, 3, 2), nn.BatchNorm3d(3))
    model(torch.randn(8, 1, 4, 4, 4))
    assert diagnose(model, list(torch.randn(4, 8, 1, 4, 4, 4))).layers[0].channels == 3


WITHOUT = nn.Sequential(nn.Linear(4, 2), nn.ReLU()).double()


@pytest.mark.parametrize(
    ("model", "arguments", "error", "message"),
    [
        (network, {"batches": []}, ValueError, "there are no batches, or they reach no batch normalization layer"),
        (lambda: WITHOUT, {}, ValueError, r"the network \(Sequential\) has no batch normalization layer"),
        (
            lambda: network(track_running_stats=False),
            {},
            ValueError,
            r"layer '1' with 6 channels keeps no running statistics \(track_running_stats=False\)",
        ),
        (lambda: nn.LazyBatchNorm1d(), {}, ValueError, "layer '' does not know its channels yet"),
        (
            network,
            {"batches": [x for x, _ in batches()], "loss": F.cross_entropy},
            ValueError,
            r"expected batches \(input, target\) for the loss, got a tensor of shape \(16, 4\) without a target",
        ),
        (
            network,
            {"evaluation": [(torch.zeros(3, 4).double(),)], "loss": F.cross_entropy},
            ValueError,
            r"for the loss, got tuple of a tensor of shape \(3, 4\) without a target",
        ),
        (network, {"evaluation": []}, ValueError, "there are no batches of evaluation data"),
        (network, {"evaluation": iter([])}, ValueError, "there are no batches of evaluation data"),
        (
            lambda: nn.Sequential(BatchNorm(4).double()),
            {"batches": batches(1)[0][0]},
            ValueError,
            r"expected an input of shape \[batch, channels, \*\], got \(4,\)",
        ),
        (lambda: BatchNorm(5), {}, ValueError, r"expected 5 channels in dimension 1, got .* \(16, 4\)"),
        (lambda: nn.BatchNorm1d(5), {}, ValueError, r"expected 5 channels in dimension 1, got .* \(16, 4\)"),
        (network, {"batches": [{"x": 1}]}, TypeError, "expected batches of inputs, tensors .* got dict of int"),
        (network, {"batches": [()]}, TypeError, "got tuple of nothing"),
        (network, {"batches": batches(1)[0][1]}, TypeError, r"got a tensor of shape \(\)"),
        (network, {"batches": batches(1, size=1)}, ValueError, r"more than one value per channel .*\(1, 6\)"),
        (
            network,
            {"loss": lambda output, target: F.cross_entropy(output, target, reduction="none")},
            ValueError,
            r"expected a loss of one number, the mean over the batch, got \(16,\)",
        ),
    ],
)
def test_bad_input(
    model: Callable[[], nn.Module], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    broken = model()
    before = state(broken) if not isinstance(broken, nn.LazyBatchNorm1d) else None
    with pytest.raises(error, match=message):
        diagnose(broken, **{"batches": batches(), **arguments})
    if before is not None:
        assert_same(state(broken), before)


def test_running_statistics_of_a_wrong_shape() -> None:
    model = network()
    model[1].running_var = torch.ones(3)
    with pytest.raises(ValueError, match=r"layer '1' has running statistics of shapes \(6,\) and \(3,\), not \(6,\)"):
        diagnose(model, batches())


@pytest.mark.parametrize("layer", LAYERS)
def test_evaluation_data_of_any_batch_size(layer: Any) -> None:
    """Evaluation accepts batches of a single sample, as the last one of an epoch can be."""
    model = network(layer)
    x = torch.cat([x for x, _ in batches()])
    found = [diagnose(model, batches(), evaluation=x.split(size)).layers for size in (len(x), 1, len(x) - 1)]
    for layers in zip(*found, strict=True):
        shifts = [one.from_training for one in layers]
        assert all(shift.mean == pytest.approx(0, abs=1e-6) for shift in shifts)
        assert all(shift.var == pytest.approx(1, abs=1e-6) for shift in shifts)


def test_a_compiled_network() -> None:
    """A graph cannot contain what is measured, so it runs uncompiled; afterwards the graph is used again."""
    torch.compiler.reset()
    model = network()
    expected = str(diagnose(model, batches()))
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled: Any = torch.compile(model, fullgraph=True, backend=backend)
        before = [compiled.eval()(x) for x, _ in batches()]
        model.train()
        diagnosis = diagnose(compiled, batches(), evaluation=batches())
        after = [compiled.eval()(x) for x, _ in batches()]
    torch.compiler.reset()
    assert [layer.name.removeprefix("_orig_mod.") for layer in diagnosis.layers] == ["1", "4"]
    assert str(diagnose(model.train(), batches())) == expected
    torch.testing.assert_close(before, after, rtol=0, atol=0)
    assert len(graphs) == 1


def test_a_copy_gives_the_same() -> None:
    model = network()
    assert str(diagnose(copy.deepcopy(model), batches())) == str(diagnose(model, batches()))


def test_masks() -> None:
    """What the padding is does not matter: the layers' inputs are those that count, and so is the loss."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = BatchNorm(4, dtype=torch.float64)

        def forward(self, x: Tensor, mask: Tensor) -> Any:
            return self.norm(x, mask).sum(2)

    x = torch.randn(6, 16, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(5).expand(16, 5) < 3
    target = torch.zeros(16, 4, dtype=torch.float64)
    found = []
    for padding in (torch.nan, 7.0):
        padded = torch.where(mask[:, None], x, padding)
        passes = Passes(Padded(), [({"x": batch, "mask": mask}, target) for batch in padded], None, F.mse_loss)
        torch.testing.assert_close(passes.layers["norm"].population.mean, x[..., :3].mean(dim=(0, 1, 3)))
        found.append([passes.outcomes[choice] for choice in ("running", "batch", "population", "norm")])
    assert found[0] == found[1]
    assert all(map(math.isfinite, found[0]))


def test_masks_that_keep_nothing() -> None:
    """As empty batches, they change nothing."""
    model = BatchNorm(2)
    generator = torch.Generator().manual_seed(0)
    kept = [{"input": torch.randn(16, 2, 5, generator=generator), "mask": torch.ones(16, 5)} for _ in range(4)]
    nothing = {"input": torch.full((16, 2, 5), torch.nan), "mask": torch.zeros(16, 5)}
    expected, found = (
        diagnose(model, kept, evaluation=kept),
        diagnose(model, [nothing, *kept], evaluation=[nothing, *kept]),
    )
    assert found.layers[0] == dataclasses.replace(expected.layers[0], effect=found.layers[0].effect)
    with pytest.raises(ValueError, match="there are no batches"):
        diagnose(model, [nothing])
