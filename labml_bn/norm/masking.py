r"""Masks: which positions of a batch count, and how much.

Sequences of different lengths are padded to one batch, images have invalid pixels, and graphs of different sizes are
stored together. The values there must not affect the statistics. With weights $w_i \ge 0$, the same for all channels of
a position, Algorithm 1 becomes

$$\mu = \frac{\sum_i w_i x_i}{\sum_i w_i} \qquad \sigma^2 = \frac{\sum_i w_i (x_i - \mu)^2}{\sum_i w_i}$$

A mask of True and False is the weights 1 and 0, and gives the statistics of the batch that is cut to what counts. A
position of weight 0 is replaced by 0 before anything is computed, so that not even NaN can leave it, and its output is
0. The number of values, which the unbiased variance needs, becomes the effective number of samples (Kish 1965): it does
not depend on the scale of the weights, and for a mask it is the number of positions that count.

$$m = \frac{\left(\sum_i w_i\right)^2}{\sum_i w_i^2}$$
"""

import torch
from torch import Tensor

from labml_bn.norm.kernels.reference import all_but_channels, moments, per_channel, widen, widest
from labml_bn.norm.transforms import is_readable


def position_weights(mask: Tensor, x: Tensor) -> Tensor:
    """The weights of the positions of x [batch, channels, *], as [batch, 1, *] in float32 or wider, at most 1.

    `mask` is [batch, *] or [batch, 1, *], of bool or a floating dtype. The weights are constants: they get no gradient.
    Raises TypeError for another dtype, and ValueError for another shape or device, and for weights that are negative
    or not finite, if their values can be read: not in a compiled graph or under a transform.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"expected a mask that is a tensor, got one of type {type(mask).__name__}")
    if not (mask.dtype == torch.bool or mask.is_floating_point()):
        raise TypeError(f"expected a mask of bool or a floating dtype, got {mask.dtype}: for 0 and 1, use mask.bool()")
    short, long = (x.shape[0], *x.shape[2:]), (x.shape[0], 1, *x.shape[2:])
    if tuple(mask.shape) not in (short, long):
        raise ValueError(
            f"expected a mask of shape {short} or {long} for an input of shape {tuple(x.shape)}, "
            f"got {tuple(mask.shape)}"
        )
    if mask.device != x.device:
        raise ValueError(f"expected a mask on {x.device}, as the input, got one on {mask.device}")
    weights = mask.detach().reshape(long).contiguous()  # else `where` could give x the strides of a transposed mask
    if weights.dtype == torch.bool:
        return weights.to(widest(x.dtype))
    if is_readable(weights) and not (valid := (weights >= 0) & (weights < torch.inf)).all():
        raise ValueError(
            "expected a mask with weights that are finite and not negative, "
            f"got {weights[~valid][0].item()} in a mask of shape {tuple(mask.shape)}"
        )
    weights = weights.to(widest(weights.dtype, x.dtype))
    if weights.numel() == 0:
        return weights
    # Their scale does not matter, and the squares of numbers up to 1 do not overflow.
    return weights / weights.max().clamp(min=torch.finfo(weights.dtype).tiny)


def kept(x: Tensor, weights: Tensor | None) -> Tensor:
    """x, with 0 in the positions that do not count."""
    return x if weights is None else torch.where(weights > 0, x, torch.zeros((), dtype=x.dtype, device=x.device))


def effective_number(weights: Tensor) -> Tensor:
    """The effective number of samples, a scalar; 0 if none counts. The equation is above."""
    empty = (weights == 0).all()
    return torch.where(empty, 0, weights.sum().square() / torch.where(empty, 1, weights.square().sum()))


def number_of_values(x: Tensor, weights: Tensor | None) -> float:
    """The number of values per channel of x [batch, channels, *]; without regard to weights that cannot be read."""
    if weights is None or not is_readable(weights):
        return x.numel() // x.shape[1]
    return effective_number(weights).item()


def masked_moments(x: Tensor, mask: Tensor | None) -> tuple[float, float, Tensor, Tensor]:
    """The moments of x [batch, channels, *], of which not all positions count if there is a mask, for averages of many.

    Returns the sum of the weights and that of their squares, for m above, which are the number of values per channel
    without a mask; and the mean and the biased variance, [channels], in float64. At least one position must count.
    Raises as `position_weights` does, and ValueError if x has fewer than two dimensions.
    """
    if x.dim() < 2:
        raise ValueError(f"expected an input of shape [batch, channels, *], got {tuple(x.shape)}")
    x = x.detach().double()
    if mask is None:
        count = float(x.numel() // x.shape[1])
        return count, count, *moments(x)
    shape = position_weights(mask, x).shape
    weights = mask.detach().double().reshape(shape)  # not scaled: batches with larger weights count more
    _, mean, var = weighted_moments(kept(x, weights), weights)
    return weights.sum().item(), weights.square().sum().item(), mean, var


def counts_none(x: Tensor, mask: Tensor | None) -> bool:
    """Whether x is an empty batch, or one of which no position counts."""
    return x.numel() == 0 or not (mask is None or mask.any())


def is_one_value(total: float, total_of_squares: float) -> bool:
    """Whether only one value has these sums of the weights and of their squares, up to rounding."""
    return total * total <= total_of_squares * (1 + 1e-12)


def weighted_moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The count, mean and biased variance of x, which is 0 where the weights are.

    The equations are above. Without any position that counts, they are 0, 0 and 1, as for an empty batch. Returns
    (count, mean, var): a scalar and two vectors [channels], in float32 or wider.
    """
    x, dims, total = widen(x), all_but_channels(x), weights.sum()
    empty = total == 0
    shares = weights / torch.where(empty, 1, total)  # divided first, so that large values do not overflow in the sums
    mean = (shares * x).sum(dims)
    # Without the rounding error of the shares. If the mean is infinite, the difference is not a number.
    mean = mean + (shares * (x - per_channel(mean, x))).sum(dims).nan_to_num(0)
    centered = x - per_channel(mean, x)
    var = (shares * centered * centered).sum(dims)
    return effective_number(weights), mean, torch.where(empty, 1, var)
