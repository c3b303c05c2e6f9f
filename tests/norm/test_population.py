"""Population statistics against NumPy in float64, computed from all data at once."""

import copy
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from labml_bn import BatchNorm, estimate_population

Array = npt.NDArray[np.float64]


def network(layer: Any = BatchNorm, **options: Any) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 5), layer(5, **options), nn.ReLU(), nn.Linear(5, 3), layer(3, **options), nn.Dropout()
    ).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def data(n: int = 100) -> Tensor:
    return torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3 + 2


def numpy_reference(model: Any, x: Tensor, *, unbiased: bool = True) -> list[tuple[Array, Array]]:
    """Mean and variance at both layers, in NumPy. The first layer normalizes by its own statistics."""
    w = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    found = []
    h = x.numpy()
    for linear, norm in (("0", "1"), ("3", "4")):
        h = h @ w[f"{linear}.weight"].T + w[f"{linear}.bias"]
        mean, var = h.mean(axis=0), h.var(axis=0, ddof=int(unbiased))
        found.append((mean, var))
        h = (h - mean) / np.sqrt(var + 1e-5) * w[f"{norm}.weight"] + w[f"{norm}.bias"]
        h = np.maximum(h, 0)
    return found


def statistics(model: Any) -> list[tuple[Array, Array]]:
    return [(model[i].running_mean.numpy(), model[i].running_var.numpy()) for i in (1, 4)]


@pytest.mark.parametrize("layer", [BatchNorm, nn.BatchNorm1d])
@pytest.mark.parametrize("sizes", [[100], [64, 36], [1] * 100, [99, 1], [7, 31, 2, 60], [50, 0, 50]], ids=str)
def test_whole_for_any_split(sizes: list[int], layer: type[nn.Module]) -> None:
    """Accurate to rounding in float64, also for batches of different sizes."""
    model = network(layer)
    estimate_population(model, data().split(sizes))
    np.testing.assert_allclose(np.hstack(statistics(model)), np.hstack(numpy_reference(model, data())), rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 60), max_size=6),
    mean=st.sampled_from([0.0, 1.0, -1e4, 1e6]),
    shape=st.sampled_from([(), (3,), (2, 3), (2, 2, 2)]),
)
def test_whole_with_large_means(cuts: list[int], mean: float, shape: tuple[int, ...]) -> None:
    """No cancellation at large means, for any split and any number of trailing dimensions."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3, *shape)) + mean
    layer = BatchNorm(3, dtype=torch.float64)
    bounds = sorted({0, *cuts, 60})
    estimate_population(layer, [torch.from_numpy(x[a:b]) for a, b in itertools.pairwise(bounds)])
    axes = (0, *range(2, x.ndim))
    assert layer.running_mean is not None
    assert layer.running_var is not None
    np.testing.assert_allclose(
        layer.running_mean.numpy(), x.mean(axis=axes), rtol=1e-12, atol=1e-15 * abs(mean) + 1e-12
    )
    np.testing.assert_allclose(layer.running_var.numpy(), x.var(axis=axes, ddof=1), rtol=1e-9)


def test_biased() -> None:
    model = network(unbiased=False)
    estimate_population(model, data().split(30))
    np.testing.assert_allclose(
        np.hstack(statistics(model)), np.hstack(numpy_reference(model, data(), unbiased=False)), rtol=1e-12
    )


def test_batches() -> None:
    """The averages of the batches' means and unbiased variances, each batch normalized by its own statistics."""
    model = network()
    w = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    means: list[list[Array]] = [[], []]
    variances: list[list[Array]] = [[], []]
    for batch in data().split(25):
        h = batch.numpy()
        for i, (linear, norm) in enumerate((("0", "1"), ("3", "4"))):
            h = h @ w[f"{linear}.weight"].T + w[f"{linear}.bias"]
            means[i].append(h.mean(axis=0))
            variances[i].append(h.var(axis=0) * 25 / 24)
            h = (h - h.mean(axis=0)) / np.sqrt(h.var(axis=0) + 1e-5) * w[f"{norm}.weight"] + w[f"{norm}.bias"]
            h = np.maximum(h, 0)
    estimate_population(model, data().split(25), estimator="batches")
    for (mean, var), m, v in zip(statistics(model), means, variances, strict=True):
        np.testing.assert_allclose(mean, np.mean(m, axis=0), rtol=1e-12)
        np.testing.assert_allclose(var, np.mean(v, axis=0), rtol=1e-12)


def test_samples() -> None:
    model = network()
    estimate_population(model, data().split(40), samples=50)
    np.testing.assert_allclose(np.hstack(statistics(model)), np.hstack(numpy_reference(model, data()[:50])), rtol=1e-12)


def test_generators_and_data_loaders() -> None:
    model, again = network(), network()
    estimate_population(model, data().split(40))
    estimate_population(again, ((x, torch.zeros(len(x))) for x in data().split(40)))
    torch.testing.assert_close(dict(model.state_dict()), dict(again.state_dict()))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data()), batch_size=33)
    estimate_population(again, loader)
    torch.testing.assert_close(dict(model.state_dict()), dict(again.state_dict()))


def test_evaluation_equals_training_on_one_batch() -> None:
    """With all data in one batch, training mode gives the same output as evaluation with population statistics."""
    model = network(unbiased=False)
    model[5].p = 0.0
    expected = copy.deepcopy(model).train()(data())
    estimate_population(model, data().split(9))
    torch.testing.assert_close(model.eval()(data()), expected)


@pytest.mark.parametrize("estimator", ["whole", "batches"])
def test_nothing_else_changes(estimator: str) -> None:
    model = network(momentum=None)
    model(data())
    model[1].eval()
    before = copy.deepcopy(model)
    estimate_population(model, data().split(25), estimator=estimator)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [getattr(m, "momentum", "-") for m in model.modules()] == [
        getattr(m, "momentum", "-") for m in before.modules()
    ]
    assert not any(m._forward_pre_hooks for m in model.modules())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed == {f"{i}.{name}" for i in (1, 4) for name in ("running_mean", "running_var")}


@pytest.mark.parametrize("estimator", ["whole", "batches"])
@pytest.mark.parametrize("after", [0, 1, 3, 5, 6])
def test_interrupted(after: int, estimator: str) -> None:
    """After an interruption at any time nothing has changed, including the running statistics."""
    model = network()
    model(data())
    before = copy.deepcopy(model)

    class Interrupted:
        left = after

        def __iter__(self) -> Iterator[Tensor]:
            for batch in data().split(40):
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
                yield batch

    interrupted = Interrupted()
    try:
        estimate_population(model, interrupted, estimator=estimator)
    except KeyboardInterrupt:
        torch.testing.assert_close(dict(model.state_dict()), dict(before.state_dict()), rtol=0, atol=0)
    else:
        assert estimator == "batches"  # takes one pass
        assert after > 3 - 1
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_progress() -> None:
    seen: list[int] = []

    def progress(batches: Any) -> Any:
        seen.append(len(batches))
        return batches

    estimate_population(network(), data().split(25), progress=progress)
    assert seen == [4, 4]


@pytest.mark.parametrize(
    ("options", "batches", "message"),
    [
        ({"estimator": "mean"}, [data()], "estimator must be one of whole, batches"),
        ({"samples": 0}, [data()], "samples must be at least 1"),
        ({}, [], "no batches"),
        ({"estimator": "batches"}, [], "no batches"),
        ({}, [data(1)], "more than one value per channel"),
        ({"estimator": "batches"}, [data(4), data(1)], "more than one value per channel"),
    ],
)
def test_invalid_arguments(options: dict[str, Any], batches: list[Tensor], message: str) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        estimate_population(model, batches, **options)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


def test_layer_without_running_statistics_is_named() -> None:
    with pytest.raises(ValueError, match="layer '1' keeps no running statistics"):
        estimate_population(network(track_running_stats=False), [data()])


def test_network_without_normalization() -> None:
    estimate_population(nn.Linear(4, 2).double(), [data()])


def test_infinite_generator() -> None:
    model = network()
    endless = (data()[first : first + 20] for first in itertools.cycle(range(0, 100, 20)))
    estimate_population(model, endless, samples=50)
    np.testing.assert_allclose(np.hstack(statistics(model)), np.hstack(numpy_reference(model, data()[:50])), rtol=1e-12)


def test_samples_are_the_same_in_every_pass() -> None:
    """Even if the data are shuffled."""
    passes: list[set[float]] = []

    class Recorder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            passes.append(set(x[:, 0].tolist()))
            return x

    model = nn.Sequential(Recorder(), *network())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data()), batch_size=10, shuffle=True)
    estimate_population(model, loader, samples=10)
    assert len(passes) >= 2
    assert all(seen == passes[0] for seen in passes)


def test_layer_that_is_called_twice() -> None:
    layer = BatchNorm(4, dtype=torch.float64)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    with pytest.raises(ValueError, match=r"layer '0' is called more than once per input, .* use estimator='batches'"):
        estimate_population(model, [data()])
    estimate_population(model, [data()], estimator="batches")


def test_layer_that_is_called_by_keyword() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = BatchNorm(4, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(input=x)
            return y

    model = Keyword()
    estimate_population(model, [data()])
    torch.testing.assert_close(model.norm.running_mean, data().mean(dim=0))


def test_overridden_train_method_is_not_called() -> None:
    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> Any:
            with torch.no_grad():
                self.weight += 1
            return super().train(mode)

    model = nn.Sequential(Merging(4, 4), BatchNorm(4)).double()
    before = model.get_parameter("0.weight").clone()
    estimate_population(model, [data()])
    torch.testing.assert_close(model.get_parameter("0.weight"), before)


class Masked(nn.Module):
    """A network for padded sequences [batch, channels, positions]."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.between = BatchNorm(4, **options), nn.Conv1d(4, 3, 1)
        self.second = BatchNorm(3, **options)

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        return self.second(self.between(self.first(x, mask)).tanh(), mask=mask)


def sequences(samples: int = 24) -> tuple[Tensor, Tensor]:
    """Sequences of 2 to 7 positions, padded with NaN, and which positions count."""
    x = torch.randn(samples, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 3 + 2
    mask = torch.arange(7) < 2 + torch.arange(samples)[:, None] % 6
    return torch.where(mask[:, None], x, torch.nan), mask


def cut(model: Masked, x: Tensor, mask: Tensor, *, normalize: Any) -> list[Array]:
    """What counts at both layers, [values, channels], in NumPy; `normalize` is applied at the first."""
    first = x.movedim(1, -1)[mask].numpy()
    weight, bias = (model.get_parameter(f"between.{name}").detach().numpy() for name in ("weight", "bias"))
    return [first, np.tanh(normalize(first) @ weight[:, :, 0].T + bias)]


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("split", [24, 5, 1])
def test_whole_with_masks(split: int, unbiased: bool) -> None:
    """Padding does not count, however the data are split into batches."""
    model, (x, mask) = Masked(unbiased=unbiased).double(), sequences()
    batches = [{"x": a, "mask": b} for a, b in zip(x.split(split), mask.split(split), strict=True)]
    estimate_population(model, batches)
    eps = model.first.eps

    def normalize(values: Array) -> Any:
        return (values - values.mean(0)) / np.sqrt(values.var(0, ddof=int(unbiased)) + eps)

    for layer, values in zip((model.first, model.second), cut(model, x, mask, normalize=normalize), strict=True):
        np.testing.assert_allclose(layer.get_buffer("running_mean"), values.mean(0), rtol=1e-10)
        np.testing.assert_allclose(layer.get_buffer("running_var"), values.var(0, ddof=int(unbiased)), rtol=1e-10)


def test_batches_with_masks() -> None:
    """Each batch counts by the number of its positions that do. Targets are ignored, and `samples` cuts masks too."""
    model, (x, mask) = Masked().double(), sequences(15)
    parts = [slice(0, 8), slice(8, 12)]
    batches = [({"x": x[part], "mask": mask[part]}, "target") for part in (*parts, slice(12, 15))]
    estimate_population(model, batches, samples=12, estimator="batches")
    found = []
    for part in parts:
        first, second = cut(
            model,
            x[part],
            mask[part],
            normalize=lambda values: (values - values.mean(0)) / np.sqrt(values.var(0) + model.first.eps),
        )
        found.append([(len(values), values.mean(0), values.var(0, ddof=1)) for values in (first, second)])
    for layer, moments in zip((model.first, model.second), zip(*found, strict=True), strict=True):
        counts, means, variances = zip(*moments, strict=True)
        np.testing.assert_allclose(
            layer.get_buffer("running_mean"), np.average(means, axis=0, weights=counts), rtol=1e-10
        )
        np.testing.assert_allclose(
            layer.get_buffer("running_var"), np.average(variances, axis=0, weights=counts), rtol=1e-10
        )


@pytest.mark.parametrize("estimator", ["whole", "batches"])
def test_weights(estimator: str) -> None:
    """Weighted values count as that in all batches together; their scale matters between batches."""
    x = torch.randn(12, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weights = torch.rand(12, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 5
    layer = BatchNorm(2, dtype=torch.float64)
    estimate_population(
        layer,
        [{"input": a, "mask": b} for a, b in zip(x.split(6), weights.split(6), strict=True)],
        estimator=estimator,
    )
    means, variances, totals = [], [], []
    for part in [slice(0, 12)] if estimator == "whole" else [slice(0, 6), slice(6, 12)]:
        values, w = x[part].movedim(1, -1).reshape(-1, 2).numpy(), weights[part].flatten().numpy()
        mean = np.average(values, axis=0, weights=w)
        effective = w.sum() ** 2 / (w**2).sum()
        variances.append(np.average((values - mean) ** 2, axis=0, weights=w) * effective / (effective - 1))
        means.append(mean)
        totals.append(w.sum())
    np.testing.assert_allclose(layer.get_buffer("running_mean"), np.average(means, axis=0, weights=totals), rtol=1e-10)
    np.testing.assert_allclose(
        layer.get_buffer("running_var"), np.average(variances, axis=0, weights=totals), rtol=1e-10
    )


@pytest.mark.parametrize("weight", [True, 0.3])
def test_masks_that_keep_one_value_or_none(weight: Any) -> None:
    layer = BatchNorm(2)
    mask = torch.zeros(4, dtype=torch.tensor(weight).dtype)
    x = torch.randn(4, 2)
    with pytest.raises(ValueError, match="there are no batches"):
        estimate_population(layer, [{"input": x, "mask": mask}])
    mask[1] = weight
    with pytest.raises(ValueError, match="more than one value per channel"):
        estimate_population(layer, [{"input": x, "mask": mask}])
    with pytest.raises(ValueError, match="expected a mask of shape"):
        estimate_population(layer, [{"input": x, "mask": mask[:3]}])
    assert layer.running_mean is not None
    assert not layer.running_mean.any()


@pytest.mark.parametrize("estimator", ["whole", "batches"])
def test_inputs_without_channels(estimator: str) -> None:
    """Such as a single batch in place of several."""
    layer = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match=r"expected (an input of shape .* got \(3,\)|2D or 3D input \(got 1D input\))"):
        estimate_population(layer, torch.randn(8, 3), estimator=estimator)


@pytest.mark.parametrize("estimator", ["whole", "batches"])
def test_a_compiled_network(estimator: str) -> None:
    """A graph cannot contain what is measured, so the network runs uncompiled."""
    torch.compiler.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), BatchNorm(4), nn.Linear(4, 2), BatchNorm(2))
    batches = list(torch.randn(20, 8, 3))  # more than the number of times that PyTorch compiles a function again
    expected = copy.deepcopy(model)
    estimate_population(expected, batches, estimator=estimator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
        estimate_population(compiled, batches, estimator=estimator)
    torch.compiler.reset()
    torch.testing.assert_close(dict(model.named_buffers()), dict(expected.named_buffers()), rtol=0, atol=0)
