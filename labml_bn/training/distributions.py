"""What `track=distributions` logs at each validation: how each layer's statistics, parameters and gradients spread.

Of the last training step before a validation, the statistics of the batch and the gradients; the parameters after it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from labml import tracker
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bn.norm.hooks import forward_pre_hook
from labml_bn.norm.kernels.reference import moments

#: The gradient of a convolution's or linear layer's weights is logged as so many quantiles: 0, 5, 10, ... 100 %.
QUANTILES = 21

#: The mean and the biased variance of a layer's input, per channel.
Statistics = dict[nn.Module, tuple[Tensor, Tensor]]


@contextlib.contextmanager
def observing(model: nn.Module) -> Iterator[Statistics]:
    """Within the block, collect the batch statistics of every batch normalization layer in a forward pass.

    They are those of its input in the dtype in which it is computed, such as bfloat16. The forward pass is unchanged.
    """
    found: Statistics = {}

    def observe(layer: nn.Module, input: Tensor, _: Tensor | None) -> None:
        with torch.no_grad():
            found[layer] = moments(input)

    with forward_pre_hook((layer for layer in model.modules() if isinstance(layer, _BatchNorm)), observe):
        yield found


def save(step: int, model: nn.Module, statistics: Statistics) -> None:
    """Log the distributions of every layer: batch `statistics`, parameters, and gradients of the last step."""
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            mean, var = statistics[layer]
            _add(f"bn.{name}.batch_mean", mean)
            _add(f"bn.{name}.batch_var", var)
            for what in ("weight", "bias"):
                parameter = layer.get_parameter(what)
                _add(f"bn.{name}.{what}", parameter.detach())
                _add(f"bn.{name}.{what}_gradient", parameter.grad)
        elif isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.grad is not None:
            _add(f"gradient.{name}.weight", quantiles(layer.weight.grad))
    tracker.save(step)


def _add(name: str, values: Any) -> None:
    tracker.add({name: values})


def quantiles(values: Tensor) -> NDArray[np.float64]:
    """The quantiles 0, 5, ... 100 % of all `values`, interpolated linearly; NaN if one of them is NaN."""
    ordered = np.sort(values.cpu().numpy(), axis=None)  # several times faster than PyTorch, and of any size
    if np.isnan(ordered[-1]):
        return np.full(QUANTILES, np.nan)
    with np.errstate(invalid="ignore"):  # between infinite values
        found: NDArray[np.float64] = np.quantile(ordered, np.arange(QUANTILES) / (QUANTILES - 1))
    return found
