r"""Batch normalization as a differentiable function: the forward pass, and the backward pass in closed form.

The arithmetic is in `kernels/reference.py`. `batch_norm` normalizes with the statistics of the batch, and gradients
flow through them (training). `normalize_with` normalizes with given statistics, which are constants (inference). Each
is a `torch.autograd.Function` that saves only the input and per-channel vectors. Automatic differentiation of `moments`
and `normalize` would also save intermediate results of the size of the input. It gives the same result, for derivatives
of any order in either mode, and is used if PyTorch must see every operation (`is_observed`), and with a mask.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from labml_bn.norm import kernels
from labml_bn.norm.kernels import reference
from labml_bn.norm.kernels.reference import widen
from labml_bn.norm.masking import kept, weighted_moments
from labml_bn.norm.transforms import is_observed

#: Of a batch: the number of values per channel, and the mean and the biased variance of each channel, [channels].
Moments = tuple[int | Tensor, Tensor, Tensor]


class BatchStatistics:
    """The count, moments and gradient sums of the batch, which here is the batch of this process.

    A subclass can extend the batch over several processes: it combines the moments in the forward pass, and the
    gradient sums in the backward pass, with those of the other processes. For double backward, both methods must be
    differentiable.
    """

    def moments(self, x: Tensor, weights: Tensor | None = None) -> Moments:
        """The number of values per channel in the batch, and the mean and biased variance of each channel.

        Takes this process's part of the batch, [batch, channels, *], and the weights of its positions, if any (see
        `masking.py`, also for the count). Returns the mean and the variance as [channels], in float32 or wider. An
        empty batch has the count 0, the mean 0 and the variance 1.
        """
        count = x.numel() // x.shape[1]
        if count == 0:
            return count, widen(x.new_zeros(x.shape[1])), widen(x.new_ones(x.shape[1]))
        if weights is not None:
            return weighted_moments(x, weights)
        return count, *kernels.choose(x).moments(x)

    def gradient_sums(self, sum_dy: Tensor, sum_dy_xhat: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient sums of the batch, from the sums over this process's part of it, each [channels]."""
        return sum_dy, sum_dy_xhat


LOCAL = BatchStatistics()


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    weights: Tensor | None = None,
    relu: bool = False,
    max_pool: int | None = None,
    statistics: BatchStatistics = LOCAL,
) -> tuple[Tensor, int | Tensor, Tensor, Tensor]:
    r"""Normalize x with the statistics of its batch (Algorithm 1).

    For example, four values with mean 2 and variance 1:

    >>> x = torch.tensor([[1.0], [1.0], [3.0], [3.0]], requires_grad=True)
    >>> y, count, mean, var = batch_norm(x, weight=None, bias=None, eps=0.0)
    >>> count, mean.item(), var.item()
    (4, 2.0, 1.0)
    >>> y.flatten().tolist()
    [-1.0, -1.0, 1.0, 1.0]

    Without weight and bias, y is $\hat x$. If the loss depends only on the first output, the gradient of the second
    value is not 0, because the mean and the variance depend on all values. For the last two values, the effect through
    the mean and the effect through the variance cancel:

    >>> y.backward(torch.tensor([[1.0], [0.0], [0.0], [0.0]]))
    >>> x.grad.flatten().tolist()
    [0.5, -0.5, 0.0, 0.0]

    The gradient sums to 0 and is orthogonal to $\hat x$:

    >>> x.grad.sum().item(), (x.grad * y).sum().item()
    (0.0, 0.0)

    Arguments:
        x: [batch, channels, *], of any floating dtype
        weight, bias: $\gamma$ and $\beta$, [channels], or None for 1 and 0
        eps: $\epsilon$, added to the variance
        weights: how much each position counts, [batch, 1, *] (`masking.py`), or None if all count equally
        relu: whether the ReLU follows, in the same pass over the data
        max_pool: 2 if max pooling with windows of 2 × 2 follows, in the same pass if the kernel can; x must then be
            [batch, channels, height, width]
        statistics: the source of the count, the moments and the gradient sums of the batch. The gradients of weight and
            bias cover x alone, as with `torch.nn.SyncBatchNorm`, and must be summed over processes.

    Returns (y, count, mean, var): y in the dtype of x and, unless pooled, in its shape; and the count, mean and biased
    variance as `BatchStatistics.moments` gives them.
    """
    if weights is not None or is_observed():
        x = kept(x, weights)
        count, mean, var = statistics.moments(x, weights)
        y = kept(reference.normalize(x, mean, torch.rsqrt(var + eps), weight, bias, relu), weights)
        return pooled(y, max_pool), count, mean, var

    in_one_pass = pools_in_one_pass(x, max_pool, statistics)
    y, count, mean, var, _ = BatchStatisticsNorm.apply(x, weight, bias, eps, relu, in_one_pass, statistics)
    return y if in_one_pass else pooled(y, max_pool), count, mean, var


def normalize_with(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    weights: Tensor | None = None,
    relu: bool = False,
    max_pool: int | None = None,
) -> Tensor:
    """Normalize x [batch, channels, *] with a given mean and variance, each [channels] (Algorithm 2, step 11).

    The mean and variance are constants: they get no gradient. The backward pass uses their values at the time of the
    forward pass, even if the running statistics have been updated since. `weights`, `relu` and `max_pool` are those of
    `batch_norm`. Returns y in the dtype of x and, unless pooled, in its shape.
    """
    if weights is not None or is_observed():
        mean, inv_std = widen(mean.detach()).clone(), torch.rsqrt(widen(var.detach()) + eps)
        return pooled(kept(reference.normalize(kept(x, weights), mean, inv_std, weight, bias, relu), weights), max_pool)

    in_one_pass = pools_in_one_pass(x, max_pool)
    y: Tensor
    if torch.is_grad_enabled():
        with torch.no_grad():
            mean, inv_std = widen(mean).clone(), torch.rsqrt(widen(var) + eps)
        y = FixedStatisticsNorm.apply(x, mean, inv_std, weight, bias, relu, in_one_pass)
    elif kernels.is_fused(kernel := kernels.choose(x)):
        y = kernel.inference(x, mean, var, weight, bias, eps, relu, in_one_pass)
    else:
        y = kernel.normalize(x, widen(mean), torch.rsqrt(widen(var) + eps), weight, bias, relu)
    return y if in_one_pass else pooled(y, max_pool)


def pools_in_one_pass(x: Tensor, max_pool: int | None, statistics: BatchStatistics = LOCAL) -> bool:
    """Whether the function that normalizes x also max-pools. If not, PyTorch's max pooling follows it."""
    return max_pool == 2 and statistics is LOCAL and kernels.can_pool(x)


def pooled(y: Tensor, max_pool: int | None) -> Tensor:
    """y after PyTorch's max pooling, if any."""
    return y if max_pool is None else functional.max_pool2d(y, max_pool)


class BatchStatisticsNorm(torch.autograd.Function):
    """Normalization by the batch's own statistics. The gradient of x flows through them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        relu: bool,
        pool: bool,
        statistics: BatchStatistics,
    ) -> tuple[Tensor, int | Tensor, Tensor, Tensor, Tensor]:
        """Compute y, the statistics that `batch_norm` returns, and the inverse standard deviation."""
        kernel = kernels.choose(x)
        count: int | Tensor = x.numel() // x.shape[1]
        if count > 0 and statistics is LOCAL and kernels.is_fused(kernel):
            y, mean, var, inv_std = kernel.forward(x, weight, bias, eps, relu, pool)
        else:
            count, mean, var = statistics.moments(x)
            inv_std = torch.rsqrt(var + eps)
            y = kernel.normalize(x, mean, inv_std, weight, bias, relu)
        ctx.eps, ctx.relu, ctx.count, ctx.statistics = eps, relu, count, statistics
        ctx.mark_non_differentiable(mean, var, inv_std)
        ctx.set_materialize_grads(False)  # no zeros for the gradients of the statistics
        ctx.save_for_backward(x, weight, bias, mean, inv_std)
        return y, count, mean, var, inv_std

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        r"""The chain rule of §3, simplified.

        Let $s = 1/\sqrt{\sigma^2 + \epsilon}$. With the gradient $\partial\ell/\partial y_i$ given, the paper has

        1. $\dfrac{\partial\ell}{\partial \hat x_i} = \gamma \dfrac{\partial\ell}{\partial y_i}$
        2. $\dfrac{\partial\ell}{\partial \sigma^2}
           = -\dfrac{s^3}{2} \sum_j \dfrac{\partial\ell}{\partial \hat x_j} (x_j - \mu)$
        3. $\dfrac{\partial\ell}{\partial \mu} = -s \sum_j \dfrac{\partial\ell}{\partial \hat x_j}$. The paper has a
           second term, through $\sigma^2$. It contains the factor $\sum_j (x_j - \mu) = 0$, so it vanishes.
        4. $\dfrac{\partial\ell}{\partial x_i} = s \dfrac{\partial\ell}{\partial \hat x_i}
           + \dfrac{2 (x_i - \mu)}{m} \dfrac{\partial\ell}{\partial \sigma^2}
           + \dfrac{1}{m} \dfrac{\partial\ell}{\partial \mu}$

        Substitute 1, 2 and 3 into 4, replace $x_i - \mu$ by $\hat x_i / s$, and factor out $\gamma s$. The result is
        the equation of `input_gradient`. Its two sums are the gradients of bias and weight, the equations of
        `gradient_sums`.
        """
        dy = gradients[0]
        if dy is None:
            return None, None, None, None, None, None, None
        x, weight, bias, mean, inv_std = ctx.saved_tensors
        needs_dx, needs_dweight, needs_dbias = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            # Double backward: the saved statistics are detached. Computed again, they are functions of x, and the lines
            # below are an ordinary differentiable function of x, dy and weight.
            _, mean, var = ctx.statistics.moments(x)
            inv_std = torch.rsqrt(var + ctx.eps)
        kernel = kernels.choose(x, dy)
        saved = (x, mean, inv_std, weight, bias)
        dx = None
        if needs_dx and ctx.count > 0 and ctx.statistics is LOCAL and kernels.is_fused(kernel):
            dx, sum_dy, sum_dy_xhat = kernel.backward(dy, *saved, ctx.relu)
        else:
            sum_dy, sum_dy_xhat = kernel.gradient_sums(dy, *saved, ctx.relu)
            if needs_dx:
                m = max(ctx.count, 1)  # for an empty batch, 0 / 0 would make the double backward of weight NaN
                batch_dy, batch_dy_xhat = ctx.statistics.gradient_sums(sum_dy, sum_dy_xhat)
                dx = kernel.input_gradient(dy, *saved, batch_dy / m, batch_dy_xhat / m, ctx.relu)
        dweight = sum_dy_xhat.to(weight.dtype) if needs_dweight else None
        dbias = sum_dy.to(bias.dtype) if needs_dbias else None
        return dx, dweight, dbias, None, None, None, None


class FixedStatisticsNorm(torch.autograd.Function):
    """Normalization by constants: an affine map of each channel."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        inv_std: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        relu: bool,
        pool: bool,
    ) -> Tensor:
        """Compute y."""
        ctx.relu = relu
        ctx.save_for_backward(x, mean, inv_std, weight, bias)
        normalize = kernels.choose(x).normalize
        arguments = (x, mean, inv_std, weight, bias, relu)
        y: Tensor = normalize(*arguments, pool=True) if pool else normalize(*arguments)  # not every kernel can pool
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        r"""The derivative of an affine map: $\partial\ell/\partial x_i = \gamma s \, \partial\ell/\partial y_i$."""
        (dy,) = gradients
        x, _, _, weight, bias = saved = ctx.saved_tensors
        needs_dx, _, _, needs_dweight, needs_dbias, _, _ = ctx.needs_input_grad
        kernel = kernels.choose(x, dy)
        dx = kernel.input_gradient(dy, *saved, None, None, ctx.relu) if needs_dx else None
        dweight = dbias = None
        if needs_dweight or needs_dbias:
            sum_dy, sum_dy_xhat = kernel.gradient_sums(dy, *saved, ctx.relu)
            dweight = sum_dy_xhat.to(weight.dtype) if needs_dweight else None
            dbias = sum_dy.to(bias.dtype) if needs_dbias else None
        return dx, None, None, dweight, dbias, None, None
