r"""The reference implementation of the four operations of batch normalization, in plain tensor operations.

It runs on any device and in any floating dtype. A faster kernel is tested against it.

In all of them `x` has shape [batch, channels, *]. The values of a channel are all those with the same index in
dimension 1, and $m$ is their number; for images, $m$ is batch · height · width (§3.2). Per-channel vectors have shape
[channels]. The arithmetic is in float32 or wider for every dtype of x, because sums in narrower dtypes soon lose all
precision: a running sum of ones stops at 256 in bfloat16 and at 2048 in float16.
"""

import torch
from torch import Tensor
from torch.nn import functional

from labml_bn.norm.kernels.layout import in_format_of


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Compute the mean and the biased variance of each channel (Algorithm 1, first two equations).

    $$\mu = \frac{1}{m} \sum_i x_i \qquad \sigma^2 = \frac{1}{m} \sum_i (x_i - \mu)^2$$

    `var_mean` computes both in one pass with Welford's algorithm, which sums squared differences from the running mean.
    The textbook formula $E[x^2] - E[x]^2$ suffers from cancellation: with a mean of $10^4$ it subtracts two numbers
    near $10^8$. The seven digits of float32 then leave nothing of a variance of 1, and the result can be negative.

    If a channel contains infinity, Welford's algorithm subtracts it from itself, and the mean is NaN. It should be
    infinite, if all infinite values have the same sign and there is no NaN. The plain mean, which takes a few percent
    of the time, gives this. The variance is NaN.

    Returns (mean, var), each [channels], in float32 or wider.
    """
    x = widen(x)
    dims = all_but_channels(x)
    var, mean = torch.var_mean(x, dim=dims, correction=0)
    return torch.where(mean.isnan(), x.detach().mean(dims), mean), var


def normalize(
    x: Tensor, mean: Tensor, inv_std: Tensor, weight: Tensor | None, bias: Tensor | None, relu: bool = False
) -> Tensor:
    r"""Normalize each channel, then scale and shift it (Algorithm 1, last two equations).

    $$\hat x_i = \frac{x_i - \mu}{\sqrt{\sigma^2 + \epsilon}} \qquad y_i = \gamma \hat x_i + \beta$$

    The mean is subtracted first. Merging it into the shift would save an operation, but both terms would be of the size
    of the scaled mean, and their rounding errors would remain after they cancel.

    `inv_std` is $1 / \sqrt{\sigma^2 + \epsilon}$. `weight` is $\gamma$ (None: 1) and `bias` is $\beta$ (None: 0). With
    `relu`, the result is $\max(y_i, 0)$. Returns y in the shape, dtype and memory format of x (`layout.py`).
    """
    centered = widen(x) - per_channel(mean, x)
    scale = per_channel(inv_std if weight is None else weight * inv_std, x)
    y = centered * scale if bias is None else torch.addcmul(per_channel(bias, x), centered, scale)
    return in_format_of(x, (y.relu() if relu else y).to(x.dtype))


def gradient_sums(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    inv_std: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Compute the per-channel gradient sums, which are the gradients of bias and weight (§3).

    $$\frac{\partial \ell}{\partial \beta} = \sum_i \frac{\partial \ell}{\partial y_i} \qquad
      \frac{\partial \ell}{\partial \gamma} = \sum_i \frac{\partial \ell}{\partial y_i} \, \hat x_i$$

    `input_gradient` needs them too: every output depends on every input of its channel, but only through the mean and
    the variance, so the other positions contribute only these two sums.

    With `relu`, `dy` is the gradient after the ReLU; after max pooling, it has the shape of the pooled output. Returns
    (sum of dy, sum of dy · x̂), each [channels].
    """
    dy = dy if dy.shape == x.shape else before_pooling(dy, x, mean, inv_std, weight, bias)
    dy = before_relu(dy, x, mean, inv_std, weight, bias) if relu else widen(dy)
    centered = widen(x) - per_channel(mean, x)
    dims = all_but_channels(x)
    return dy.sum(dims), (dy * centered).sum(dims) * inv_std


def input_gradient(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    inv_std: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean_dy: Tensor | None,
    mean_dy_xhat: Tensor | None,
    relu: bool = False,
) -> Tensor:
    r"""Compute the gradient of the input (derived in `labml_bn.norm.functional`).

    $$\frac{\partial \ell}{\partial x_i} = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} \left(
      \frac{\partial \ell}{\partial y_i}
      - \frac{1}{m} \sum_j \frac{\partial \ell}{\partial y_j}
      - \hat x_i \, \frac{1}{m} \sum_j \frac{\partial \ell}{\partial y_j} \hat x_j \right)$$

    Two terms are subtracted from dy. The first is its mean, because adding a constant to all values of a channel does
    not change the output. The second is its projection onto x̂, because scaling the centered values does not change the
    output either (both up to $\epsilon$). If the statistics are constants, neither is subtracted.

    `mean_dy` and `mean_dy_xhat` are the gradient sums divided by $m$, or None if the statistics are constants. With
    `relu`, `dy` is the gradient after the ReLU; after max pooling, it has the shape of the pooled output. Returns dx in
    the shape, dtype and memory format of x.
    """
    dy = dy if dy.shape == x.shape else before_pooling(dy, x, mean, inv_std, weight, bias)
    dy = before_relu(dy, x, mean, inv_std, weight, bias) if relu else widen(dy)
    scale = inv_std if weight is None else weight * inv_std
    if mean_dy is None or mean_dy_xhat is None:
        return in_format_of(x, (dy * per_channel(scale, x)).to(x.dtype))
    centered = widen(x) - per_channel(mean, x)
    dx = torch.addcmul(per_channel(-scale * mean_dy, x), dy, per_channel(scale, x))
    dx = torch.addcmul(dx, centered, per_channel(-scale * inv_std * mean_dy_xhat, x))
    return in_format_of(x, dx.to(x.dtype))


def before_relu(
    dy: Tensor, x: Tensor, mean: Tensor, inv_std: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    r"""The gradient before a ReLU: dy if $y_i > 0$, else 0.

    The sign of y is computed again from x, so that the backward pass needs nothing else of the size of the input.
    """
    y = normalize(x, mean, inv_std, weight, bias)
    return torch.where(y > 0, widen(dy), 0)


def before_pooling(
    dy: Tensor, x: Tensor, mean: Tensor, inv_std: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    r"""The gradient before max pooling with windows of 2 × 2: dy at the maximum of its window, else 0.

    The maximum is found again from x. It does not matter whether a ReLU comes before the pooling: if it cuts off the
    maximum, it cuts off the gradient as well.
    """
    with torch.no_grad():
        y = normalize(widen(x), mean, inv_std, weight, bias)
        _, places = functional.max_pool2d(y, 2, return_indices=True)
    return torch.zeros_like(y).flatten(2).scatter(2, places.flatten(2), widen(dy).flatten(2)).view_as(x)


def widen(x: Tensor) -> Tensor:
    """Convert x to float32, unless its dtype is wider."""
    return x.to(widest(x.dtype))


def widest(*dtypes: torch.dtype) -> torch.dtype:
    """The widest of some floating dtypes, at least float32. `torch.promote_types` would be a node of a graph."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def per_channel(vector: Tensor, x: Tensor) -> Tensor:
    """Reshape a per-channel vector [channels] to [1, channels, 1, ...], so that it broadcasts over x."""
    return vector.reshape(1, -1, *[1] * (x.dim() - 2))


def all_but_channels(x: Tensor) -> list[int]:
    """The dimensions over which the statistics are computed: all except dimension 1."""
    return [0, *range(2, x.dim())]
