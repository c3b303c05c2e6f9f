r"""Batch normalization as a function, with its backward pass in closed form.

**Forward.** For the values $x_1 \dots x_m$ of one channel, Algorithm 1 of the paper computes

$$\mu = \frac{1}{m}\sum_i x_i \qquad
  \sigma^2 = \frac{1}{m}\sum_i (x_i - \mu)^2 \qquad
  \hat x_i = \frac{x_i - \mu}{\sqrt{\sigma^2 + \epsilon}} \qquad
  y_i = \gamma \hat x_i + \beta$$

**Backward.** Write $g_i = \partial\ell / \partial y_i$ and $s = 1/\sqrt{\sigma^2 + \epsilon}$. The chain rule of §3 is

1. $\dfrac{\partial\ell}{\partial \hat x_i} = \gamma g_i$
2. $\dfrac{\partial\ell}{\partial \sigma^2} = \sum_i \gamma g_i (x_i - \mu) \cdot \left(-\tfrac12\right) s^3$
3. $\dfrac{\partial\ell}{\partial \mu} = -s \sum_i \gamma g_i$, since the other way in which $\mu$ acts, through
   $\sigma^2$, carries the factor $\sum_i (x_i - \mu) = 0$
4. $\dfrac{\partial\ell}{\partial x_i} = \gamma g_i s
   + \dfrac{\partial\ell}{\partial \sigma^2} \cdot \dfrac{2 (x_i - \mu)}{m}
   + \dfrac{\partial\ell}{\partial \mu} \cdot \dfrac{1}{m}$

Put 2 and 3 into 4, with $x_i - \mu = \hat x_i / s$:

$$\frac{\partial\ell}{\partial x_i} = \gamma s \left( g_i - \frac{1}{m}\sum_j g_j
  - \hat x_i \, \frac{1}{m}\sum_j g_j \hat x_j \right)$$

The two sums are $\partial\ell/\partial\beta$ and $\partial\ell/\partial\gamma$, which are wanted anyway. So the
backward pass reads the input twice, once for the sums and once for the result, and what it has to keep from the
forward pass is the input and a few vectors of one number per channel.
"""

from typing import Any

import torch
from torch import Tensor

from labml_bn.norm.kernels.reference import gradient_sums, input_gradient, moments, normalize, widen


def batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize x [batch, channels, *] by its own statistics: training (Algorithm 1).

    `weight` and `bias` are [channels] or None. Returns y in the shape and dtype of x, and the batch's mean and biased
    variance, each [channels] in float32 or wider, which carry no gradient. An empty x gives an empty y, with the
    mean 0 and the variance 1 in place of the statistics that it does not have.
    """
    with torch.no_grad():
        if x.numel() > 0:
            mean, var = moments(x)
        else:
            mean, var = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    y = Normalization.apply(x, mean, torch.rsqrt(var + eps), weight, bias, eps)
    return y, mean, var


def normalize_by(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Normalize x [batch, channels, *] by a given mean and variance [channels]: evaluation (Algorithm 2, step 11).

    The statistics are constants: no gradient flows into them, and the backward pass uses them as they are now, even
    if the running estimates have moved on by then. Returns y in the shape and dtype of x.
    """
    with torch.no_grad():
        mean, inv_std = widen(mean).clone(), torch.rsqrt(widen(var) + eps)
    y: Tensor = Normalization.apply(x, mean, inv_std, weight, bias, None)
    return y


class Normalization(torch.autograd.Function):
    """y = weight · (x − mean) · inv_std + bias, where the statistics may be those of x itself.

    They come in from outside, so that whoever calls may first combine them with those of other processes. `eps` says
    what they are: with the number that is in `inv_std` they are those of x, and the gradient of x flows through them;
    with None they are constants.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, mean: Tensor, inv_std: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float | None
    ) -> Tensor:
        """Algorithm 1, lines 3 and 4."""
        return normalize(x, mean, inv_std, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the backward pass needs: the input and per-channel vectors."""
        x, mean, inv_std, weight, bias, ctx.eps = inputs
        ctx.save_for_backward(x, mean, inv_std, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The closed form derived above."""
        (dy,) = gradients
        x, mean, inv_std, weight = ctx.saved_tensors
        of_batch = ctx.eps is not None
        if of_batch and torch.is_grad_enabled() and x.numel() > 0:
            # Somebody differentiates this very function (double backward): let the graph see how the moments come
            # from x. The closed form below is then an ordinary function of x, dy and weight.
            mean, var = moments(x)
            inv_std = torch.rsqrt(var + ctx.eps)

        sum_dy, sum_dy_xhat = gradient_sums(dy, x, mean, inv_std)
        needs_dx, _, _, needs_dweight, needs_dbias, _ = ctx.needs_input_grad
        dx = None
        if needs_dx:
            m = max(x.numel() // x.shape[1], 1)
            means = (sum_dy / m, sum_dy_xhat / m) if of_batch else (None, None)
            dx = input_gradient(dy, x, mean, inv_std, weight, *means)
        dweight = sum_dy_xhat.to(weight.dtype) if needs_dweight else None
        dbias = sum_dy.to(ctx.bias_dtype) if needs_dbias else None
        return dx, None, None, dweight, dbias, None
