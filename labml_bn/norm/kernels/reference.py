r"""The four verbs of batch normalization, in plain tensor operations.

Read this file first. It runs on any device and in any floating dtype, and it is the standard that every faster
kernel is held against.

Throughout, `x` has shape [batch, channels, *]: a channel's values are all those with the same index in dimension 1,
and $m$ is their number (for an image layer: batch · height · width, §3.2 of the paper). Per-channel vectors have
shape [channels]. Narrow inputs (float16, bfloat16) are computed with in float32, since the sum of a few thousand
half-precision numbers has no correct digit left.

The paper: Ioffe & Szegedy 2015, *Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift*, arXiv 1502.03167.
"""

import torch
from torch import Tensor


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""The mean and the biased variance of each channel (Algorithm 1, lines 1 and 2).

    $$\mu = \frac{1}{m} \sum_i x_i \qquad \sigma^2 = \frac{1}{m} \sum_i (x_i - \mu)^2$$

    The variance is gathered from differences to the mean (Welford's method, inside `var_mean`). The textbook's
    shortcut $E[x^2] - E[x]^2$ subtracts two numbers near $10^8$ where the mean is $10^4$: with the seven digits of
    float32 nothing is left of a variance of 1, and it can come out negative.

    Returns (mean, var), each [channels], in float32 or in x's own dtype where that is wider.
    """
    x = widen(x)
    var, mean = torch.var_mean(x, dim=all_but_channels(x), correction=0)
    return mean, var


def normalize(x: Tensor, mean: Tensor, inv_std: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    r"""Normalize each channel, then scale and shift it (Algorithm 1, lines 3 and 4).

    $$\hat x_i = \frac{x_i - \mu}{\sqrt{\sigma^2 + \epsilon}} \qquad y_i = \gamma \hat x_i + \beta$$

    The mean is subtracted first. Folding all of it into one multiplication and one addition, as an evaluation might,
    would round twice at the size of the mean before the two cancel.

    `inv_std` is $1 / \sqrt{\sigma^2 + \epsilon}$; `weight` is $\gamma$ (None: 1) and `bias` is $\beta$ (None: 0).
    Returns y in the shape and dtype of x.
    """
    centred = widen(x) - along(mean, x)
    scale = inv_std if weight is None else weight * inv_std
    y = centred * along(scale, x) if bias is None else torch.addcmul(along(bias, x), centred, along(scale, x))
    return y.to(x.dtype)


def gradient_sums(dy: Tensor, x: Tensor, mean: Tensor, inv_std: Tensor) -> tuple[Tensor, Tensor]:
    r"""What the loss says of each channel as a whole (§3, the chain rule).

    $$\frac{\partial \ell}{\partial \beta} = \sum_i \frac{\partial \ell}{\partial y_i} \qquad
      \frac{\partial \ell}{\partial \gamma} = \sum_i \frac{\partial \ell}{\partial y_i} \, \hat x_i$$

    The two are the gradients of bias and weight, and they are all that `input_gradient` needs to know of the other
    values of the channel.

    Returns (sum of dy, sum of dy · x̂), each [channels], in float32 or wider.
    """
    dy = widen(dy)
    centred = widen(x) - along(mean, x)
    dims = all_but_channels(x)
    return dy.sum(dims), (dy * centred).sum(dims) * inv_std


def input_gradient(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    inv_std: Tensor,
    weight: Tensor | None,
    mean_dy: Tensor | None,
    mean_dy_xhat: Tensor | None,
) -> Tensor:
    r"""The gradient of the input, in closed form (derived in `labml_bn.norm.functional`).

    $$\frac{\partial \ell}{\partial x_i} = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} \left(
      \frac{\partial \ell}{\partial y_i}
      - \frac{1}{m} \sum_j \frac{\partial \ell}{\partial y_j}
      - \hat x_i \, \frac{1}{m} \sum_j \frac{\partial \ell}{\partial y_j} \hat x_j \right)$$

    Two things are taken away from dy: its mean, because adding a constant to a channel changes nothing, and its part
    along x̂, because stretching a channel changes nothing either. Where the statistics are constants (evaluation),
    both means are None, and what is left is the derivative of an affine map.

    Returns dx in the shape and dtype of x.
    """
    scale = inv_std if weight is None else weight * inv_std
    if mean_dy is None or mean_dy_xhat is None:
        return (widen(dy) * along(scale, x)).to(x.dtype)
    centred = widen(x) - along(mean, x)
    dx = torch.addcmul(along(-scale * mean_dy, x), widen(dy), along(scale, x))
    dx = torch.addcmul(dx, centred, along(-scale * inv_std * mean_dy_xhat, x))
    return dx.to(x.dtype)


def widen(x: Tensor) -> Tensor:
    """x in float32, or in its own dtype where that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def along(vector: Tensor, x: Tensor) -> Tensor:
    """A per-channel vector [channels] in the shape [1, channels, 1, ...] that broadcasts over x."""
    return vector.reshape(1, -1, *[1] * (x.dim() - 2))


def all_but_channels(x: Tensor) -> list[int]:
    """The dimensions that the statistics run over: every one but dimension 1."""
    return [0, *range(2, x.dim())]
