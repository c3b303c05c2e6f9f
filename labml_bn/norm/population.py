r"""The statistics of the population, computed after training: the paper's Algorithm 2 proper.

While training, the running estimates are averages over the last mini-batches, taken while the weights still moved.
Algorithm 2 instead fixes the weights and then takes the mean and variance that inference is to use. There are two ways
of doing so, and they answer slightly different questions:

`"batches"`, the paper's own (steps 8 to 10): process mini-batches as in training, each normalized by itself, and
average over them,

$$E[x] = E_B[\mu_B] \qquad \mathrm{Var}[x] = E_B\!\left[\tfrac{m}{m-1} \sigma_B^2\right]$$

It takes one pass. What a layer sees depends on how the layers before it normalized, and so the result depends on how
the data are cut into batches; and it leaves out how the batches' means vary, which is little for large batches.

`"whole"`: the mean and variance of all the values that the layer gets when the layers before it normalize by their own
population's statistics, which is what they do at inference. It is a property of the network and the data alone: however
these are cut into batches, it comes out the same. It takes a pass for each layer, first to last, and a network that
calls each layer but once.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bn.norm.kernels.reference import moments
from labml_bn.norm.watching import evaluating, watching

ESTIMATORS = ("whole", "batches")

Batches = Iterable[Any]


def estimate_population(
    model: nn.Module,
    batches: Batches,
    *,
    samples: int | None = None,
    estimator: str = "whole",
    progress: Callable[[Batches], Batches] = iter,
) -> None:
    r"""Set the running estimates of every batch-normalization layer of `model` to those of a population (Algorithm 2).

    It works for this project's layers and PyTorch's. Weights, modes, momentum, counts and hooks stay as they are; if it
    is interrupted or fails, the estimates do too. `running_var` becomes the unbiased estimate, or the biased one where
    a layer has `unbiased=False`. The moments are gathered in float64, so on a network in float64 `"whole"` agrees to
    rounding whatever the batches. A layer that `model` does not call (`"whole"`: for the first batch) keeps its
    estimates.

    Arguments:
        model: the network
        batches: the data: inputs [batch, ...], or tuples whose first member is one, as a DataLoader gives them. They
            are gone through several times; what can be iterated but once (a generator) is held in memory.
        samples: how many of the first samples to take, which are then held in memory; None takes all
        estimator: `"whole"` or `"batches"`, as described above. With `"batches"` a batch counts by its size.
        progress: wraps the batches of each pass, to show how far it is (`tqdm.tqdm`)

    Raises ValueError for an unknown estimator, `samples` below 1, no data, fewer than two values per channel, and
    where a layer has no running estimates to set or, with `"whole"`, is called more than once for an input.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    if samples is not None and samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    for name, layer in layers.items():
        if layer.running_mean is None or layer.running_var is None:
            raise ValueError(f"layer {name!r} keeps no running estimates (track_running_stats=False)")
    if samples is not None or iter(batches) is batches:
        batches = list(_inputs(batches, samples))

    with torch.no_grad(), evaluating(model), _restored(layers.values()) as keep:
        if estimator == "batches":
            for layer in layers.values():
                layer.training = True
                layer.momentum = 0.0  # normalize by the batch, and leave the estimates alone
            found = _measure(model, list(layers.values()), _inputs(progress(batches)), _MeanOfBatches)
            for layer, statistics in found.items():
                _set(layer, statistics)
        else:
            for layer in _in_order(model, layers, batches):
                found = _measure(model, [layer], _inputs(progress(batches)), _Whole)
                _set(layer, found[layer])
        keep()


class _Whole:
    """Mean and variance of everything added, whatever the pieces (Chan, Golub & LeVeque 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0  # the sum of squared differences to the mean

    def add(self, x: Tensor) -> None:
        mean, var = moments(x.double())
        count = x.numel() // x.shape[1]
        total = self.count + count
        difference = mean - self.mean
        self.mean = self.mean + difference * (count / total)
        self.squares = self.squares + var * count + difference.square() * (self.count * count / total)
        self.count = total

    def result(self, *, unbiased: bool) -> tuple[Tensor, Tensor]:
        if self.count < 2:
            raise ValueError("a variance needs more than one value per channel")
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.squares, Tensor)
        return self.mean, self.squares / (self.count - int(unbiased))


class _MeanOfBatches:
    """The mean of the batches' means and of their variances, each counted by the batch's size."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.var = {True: torch.tensor(0.0), False: torch.tensor(0.0)}  # by whether it is unbiased

    def add(self, x: Tensor) -> None:
        mean, var = moments(x.double())
        count = x.numel() // x.shape[1]
        if count < 2:
            raise ValueError("a batch needs more than one value per channel")
        self.count += count
        share = count / self.count
        self.mean = self.mean + (mean - self.mean) * share
        for unbiased, so_far in self.var.items():
            of_batch = var * (count / (count - int(unbiased)))
            self.var[unbiased] = so_far + (of_batch - so_far) * share

    def result(self, *, unbiased: bool) -> tuple[Tensor, Tensor]:
        assert isinstance(self.mean, Tensor)
        return self.mean, self.var[unbiased]


Statistics = _Whole | _MeanOfBatches


def _measure(
    model: nn.Module, layers: list[_BatchNorm], batches: Batches, kind: Callable[[], Statistics]
) -> dict[_BatchNorm, Statistics]:
    """The statistics of what reaches each of `layers` in one pass over the batches."""
    found: dict[_BatchNorm, Statistics] = {}

    def look(layer: _BatchNorm, x: Tensor) -> None:
        if x.numel() > 0:
            found.setdefault(layer, kind()).add(x)

    with watching(layers, look):
        for x in batches:
            model(x)
    if layers and not found:
        raise ValueError("there are no batches to take statistics of")
    return found


def _in_order(model: nn.Module, layers: dict[str, _BatchNorm], batches: Batches) -> list[_BatchNorm]:
    """The layers that the model calls for the first batch, in the order in which it calls them."""
    order: list[_BatchNorm] = []
    with watching(layers.values(), lambda layer, x: order.append(layer)):
        for x in _inputs(batches):
            model(x)
            break
    if layers and not order:
        raise ValueError("there are no batches to take statistics of")
    for name, layer in layers.items():
        if order.count(layer) > 1:
            raise ValueError(
                f"layer {name!r} is called more than once for an input, so its statistics depend on themselves: "
                "use estimator='batches'"
            )
    return order


def _set(layer: _BatchNorm, statistics: Statistics) -> None:
    mean, var = statistics.result(unbiased=getattr(layer, "unbiased", True))
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(var)


def _inputs(batches: Batches, samples: int | None = None) -> Iterator[Tensor]:
    """The inputs of the batches, up to so many samples."""
    for batch in batches:
        x: Tensor = batch[0] if isinstance(batch, tuple | list) else batch
        if samples is not None:
            x = x[:samples]
            samples -= len(x)
        yield x
        if samples == 0:
            return


@contextlib.contextmanager
def _restored(layers: Iterable[_BatchNorm]) -> Iterator[Callable[[], None]]:
    """Put momentum and counts back at the end, and the estimates too unless `keep` was called."""
    layers = list(layers)
    momenta = [(layer, layer.momentum) for layer in layers]
    counts = [(b, b.clone()) for layer in layers if (b := layer.num_batches_tracked) is not None]
    estimates = [(b, b.clone()) for layer in layers for b in (layer.running_mean, layer.running_var) if b is not None]
    kept = False

    def keep() -> None:
        nonlocal kept
        kept = True

    try:
        yield keep
    finally:
        for layer, momentum in momenta:
            layer.momentum = momentum
        for buffer, before in counts + ([] if kept else estimates):
            buffer.copy_(before)
