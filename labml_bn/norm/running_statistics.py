r"""The running statistics: averages over the mini-batches of training, for inference (§3.1).

With each mini-batch of training, the mean and the variance of each channel are updated:

$$\text{running} \leftarrow (1 - \text{momentum}) \cdot \text{running} + \text{momentum} \cdot \text{batch}$$

This is an exponential moving average. Without a momentum it is the plain average over all mini-batches so far, which is
the same equation with the momentum $1 / \text{num\_batches\_tracked}$.

As in the paper's Algorithm 2, the variance of the batch is the unbiased one, $\frac{m}{m-1} \sigma^2$ for $m$ values,
or the biased one, $\sigma^2$, if the layer says so. An empty batch has no statistics. It is counted, as in PyTorch,
unless the plain average needs the number of those that have.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bn.norm.kernels.reference import widest
from labml_bn.norm.recomputation import once_per_batch
from labml_bn.norm.transforms import is_vmapped_alone, outside_transforms


@once_per_batch
def update_running_statistics(layer: _BatchNorm, count: int | Tensor, mean: Tensor, var: Tensor) -> None:
    """Update the running statistics of `layer`, in place, by those of a batch, as `functional.batch_norm` returns them.

    A layer without `num_batches_tracked` has no plain average: without a momentum it is not updated, as in PyTorch.
    Derivatives of `torch.func` that are being computed do not change the result. Raises ValueError in a `vmap` over
    several batches with the same running statistics.
    """
    state: tuple[Any, ...] = layer.running_mean, layer.running_var, layer.num_batches_tracked
    if state[0] is None or state[1] is None:
        return
    batch: tuple[Any, ...] = count, mean.detach(), var.detach()
    update = functools.partial(_update, layer.momentum, getattr(layer, "unbiased", True))
    if not torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
        update(*state, *batch)
        return
    with outside_transforms(*state, *batch) as (running_mean, *others):
        if any(is_vmapped_alone(other, running_mean) for other in others):
            raise ValueError(
                "several batches (torch.func.vmap) cannot update the same running statistics: stack those of several "
                "layers with torch.func.stack_module_state, or use frozen_statistics"
            )
        update(running_mean, *others)


def _update(
    momentum: float | Tensor | None,
    unbiased: bool,
    running_mean: Tensor,
    running_var: Tensor,
    batches: Tensor | None,
    count: int | Tensor,
    mean: Tensor,
    var: Tensor,
) -> None:
    if unbiased:
        var = var * _bessel(count)
    filled: int | Tensor = 0 if isinstance(count, int) and count == 0 else 1
    if isinstance(count, Tensor):  # with a mask: only the values tell whether the batch is empty
        filled = count > 0
    if batches is not None:
        batches.add_(1 if momentum is not None else filled)
        if momentum is None:
            momentum = 1 / batches.clamp(min=1).to(widest(mean.dtype, running_mean.dtype))
    if not isinstance(filled, Tensor) and filled == 0:
        return
    in_one_step = not isinstance(filled, Tensor) and not torch._C._are_functorch_transforms_active()
    for running, current in ((running_mean, mean), (running_var, var)):
        if in_one_step and isinstance(momentum, float) and momentum < 0.5 and running.dtype == current.dtype:
            running.lerp_(current, momentum)
        else:
            # `lerp_` would round to the narrower dtype twice, make NaN of infinity for large momenta, and cannot be
            # vectorized by vmap.
            current = current.to(widest(current.dtype, running.dtype))
            share = _as(momentum, current)
            updated = (1 - share) * running.to(current.dtype) + share * current
            running.copy_(torch.where(filled, updated, running) if isinstance(filled, Tensor) else updated)


def _bessel(count: int | Tensor) -> float | Tensor:
    """The factor from the biased to the unbiased variance."""
    if isinstance(count, Tensor):
        return torch.where(count > 1, count / (count - 1), 1)
    return count / (count - 1)


def _as(momentum: float | Tensor | None, current: Tensor) -> float | Tensor:
    if isinstance(momentum, Tensor):
        return momentum.to(current.dtype)
    return 0.0 if momentum is None else momentum
