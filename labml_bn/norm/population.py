r"""Population statistics for inference, computed after training (§3.1, Algorithm 2).

The running statistics are averages over the most recent mini-batches, computed while the weights were still changing.
Algorithm 2 first fixes the weights and then computes the mean and the variance for inference. There are two ways to do
this, and their results differ:

`"batches"`, the method of the paper (step 10): process mini-batches as in training, each normalized with its own
statistics, and average the statistics over the mini-batches,

$$E[x] = E_B[\mu_B] \qquad \mathrm{Var}[x] = E_B\!\left[\tfrac{m}{m-1} \sigma_B^2\right]$$

where $E_B$ is the average over mini-batches, here weighted by their size. It takes one pass over the data. The result
depends on how the data are split into batches, because the batch variances do, and with them the inputs of every later
layer. The factor $m/(m-1)$ corrects for the variance between the batch means only if the values in a batch are
independent. The pixels of an image are not, so the variance is underestimated, the less the more images are in a batch.

`"whole"`: the mean and the variance of all inputs of a layer, while the layers before it normalize with their own
population statistics, as they do at inference. The result depends only on the network and the data, not on the split
into batches, provided that every pass yields the same data (no random augmentation). It takes one pass per layer, from
the first to the last, and each layer may be called only once per input.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bn.norm.batches import Batches, call, inputs
from labml_bn.norm.freezing import frozen_statistics
from labml_bn.norm.hooks import evaluating, forward_pre_hook, uncompiled
from labml_bn.norm.masking import counts_none, is_one_value, masked_moments

ESTIMATORS = ("whole", "batches")


def estimate_population(
    model: nn.Module,
    batches: Batches,
    *,
    samples: int | None = None,
    estimator: str = "whole",
    progress: Callable[[Batches], Batches] = iter,
) -> None:
    r"""Set the running statistics of every batch normalization layer of `model` to population statistics (Algorithm 2).

    >>> from labml_bn.norm import BatchNorm
    >>> layer = BatchNorm(1)
    >>> estimate_population(layer, torch.tensor([[0.0], [0.0], [3.0], [3.0]]).split(3))
    >>> layer.running_mean.item(), layer.running_var.item()
    (1.5, 3.0)

    It supports this project's layers, frozen ones too, and PyTorch's. Weights, modes, momentum, batch counts and hooks
    do not change. If it is interrupted or fails, the running statistics do not change either. `running_var` becomes the
    unbiased variance, or the biased one if a layer has `unbiased=False`. Moments are accumulated in float64: for a
    network in float64, the results of `"whole"` for different splits agree up to rounding. A layer that is never called
    keeps its statistics; with `"whole"`, so does one that the first batch does not reach.

    Arguments:
        model: the network
        batches: the data: inputs [batch, ...], or tuples whose first element is the input, such as a DataLoader yields.
            An input can be a mapping of the network's keyword arguments, such as `{"x": x, "mask": mask}`: what a layer
            is called with a mask for counts as the mask says. `"batches"` iterates the data once, `"whole"` once per
            layer and once more. An iterator (a generator) is first read into memory.
        samples: how many of the first samples to use, which are held in memory, or None for all
        estimator: `"whole"` or `"batches"`, as described above. With `"batches"`, batches are weighted by their size.
        progress: wraps the batches of each pass, to show a progress bar (`tqdm.tqdm`)

    Raises ValueError if the estimator is unknown, `samples` is below 1, there are no data or fewer than two values per
    channel (with `"batches"`: in any batch), a layer keeps no running statistics, or, with `"whole"`, a layer is called
    more than once per input.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    if samples is not None and samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    for name, layer in layers.items():
        if layer.running_mean is None or layer.running_var is None:
            raise ValueError(f"layer {name!r} keeps no running statistics (track_running_stats=False)")
    if samples is not None or isinstance(batches, Iterator):
        batches = list(inputs(batches, samples))

    norms = list(layers.values())
    with (
        torch.no_grad(),
        uncompiled(),
        evaluating(model),
        frozen_statistics(model),
        _restoring_statistics_on_error(norms),
    ):
        if estimator == "batches":
            for layer in norms:
                layer.training = True  # normalize with the batch
            measured = _measure(model, norms, inputs(progress(batches)), _AveragedMoments)
            for layer, statistics in measured.items():
                _set(layer, statistics)
        else:
            for layer in _in_order_of_calls(model, layers, batches):
                measured = _measure(model, [layer], inputs(progress(batches)), _PooledMoments)
                _set(layer, measured[layer])


class _PooledMoments:
    r"""Mean and variance of all values together, however they are split.

    The moments of two parts, with $n = n_a + n_b$ and $\delta = \mu_b - \mu_a$, combine without cancellation (Chan,
    Golub & LeVeque 1979); $M = n \sigma^2$ is the sum of squared differences from the mean:

    $$\mu = \mu_a + \delta \frac{n_b}{n} \qquad M = M_a + M_b + \delta^2 \frac{n_a n_b}{n}$$

    With masks, $n$ is the sum of the weights.
    """

    def __init__(self) -> None:
        self.weight = self.squared_weights = 0.0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, x: Tensor, mask: Tensor | None) -> None:
        weight, squared_weights, mean, var = masked_moments(x, mask)
        total = self.weight + weight
        difference = mean - self.mean
        self.mean = self.mean + difference * (weight / total)
        self.squares = self.squares + var * weight + difference.square() * (self.weight * weight / total)
        self.weight = total
        self.squared_weights += squared_weights

    def result(self, *, unbiased: bool) -> tuple[Tensor, Tensor]:
        if is_one_value(self.weight, self.squared_weights):
            raise ValueError("a variance requires more than one value per channel")
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.squares, Tensor)
        return self.mean, self.squares / (self.weight - int(unbiased) * self.squared_weights / self.weight)


class _AveragedMoments:
    """The averages of the batches' means and variances, weighted by batch size, or by the sum of the mask's weights."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.mean: Tensor | float = 0.0
        self.var = {True: torch.tensor(0.0), False: torch.tensor(0.0)}  # unbiased, biased

    def add(self, x: Tensor, mask: Tensor | None) -> None:
        weight, squared_weights, mean, var = masked_moments(x, mask)
        if is_one_value(weight, squared_weights):
            raise ValueError("each batch requires more than one value per channel")
        self.weight += weight
        share = weight / self.weight
        self.mean = self.mean + (mean - self.mean) * share
        for unbiased, average in self.var.items():
            batch_var = var * (weight / (weight - int(unbiased) * squared_weights / weight))
            self.var[unbiased] = average + (batch_var - average) * share

    def result(self, *, unbiased: bool) -> tuple[Tensor, Tensor]:
        assert isinstance(self.mean, Tensor)
        return self.mean, self.var[unbiased]


Statistics = _PooledMoments | _AveragedMoments


def _measure(
    model: nn.Module, layers: list[_BatchNorm], batches: Batches, kind: Callable[[], Statistics]
) -> dict[_BatchNorm, Statistics]:
    """The statistics of the inputs of each of `layers`, in one pass over the batches."""
    measured: dict[_BatchNorm, Statistics] = {}

    def add_input(layer: _BatchNorm, x: Tensor, mask: Tensor | None) -> None:
        if not counts_none(x, mask):
            measured.setdefault(layer, kind()).add(x, mask)

    with forward_pre_hook(layers, add_input):
        for x in batches:
            call(model, x)
    if layers and not measured:
        raise ValueError("there are no batches to compute statistics from")
    return measured


def _in_order_of_calls(model: nn.Module, layers: dict[str, _BatchNorm], batches: Batches) -> list[_BatchNorm]:
    """The layers that the model calls for the first batch, in this order."""
    order: list[_BatchNorm] = []
    with forward_pre_hook(layers.values(), lambda layer, *_: order.append(layer)):
        for x in inputs(batches):
            call(model, x)
            break
    if layers and not order:
        raise ValueError("there are no batches to compute statistics from")
    for name, layer in layers.items():
        if order.count(layer) > 1:
            raise ValueError(
                f"layer {name!r} is called more than once per input, so its input depends on its own statistics: "
                "use estimator='batches'"
            )
    return order


def _set(layer: _BatchNorm, statistics: Statistics) -> None:
    mean, var = statistics.result(unbiased=getattr(layer, "unbiased", True))
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(var)


@contextlib.contextmanager
def _restoring_statistics_on_error(layers: list[_BatchNorm]) -> Iterator[None]:
    """Restore the running statistics if the block raises an exception (KeyboardInterrupt included)."""
    buffers = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var) if buffer is not None]
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield
    except BaseException:
        for buffer, before in zip(buffers, saved, strict=True):
            buffer.copy_(before)
        raise
