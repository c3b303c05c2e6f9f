r"""Batch renormalization: training with what inference uses (Ioffe 2017, *Batch Renormalization*, arXiv 1702.03275).

In small batches, or batches of similar samples, the statistics differ much from the running statistics that inference
uses. Batch renormalization corrects the normalized values by two numbers per channel:

$$y_i = \gamma \left( \hat x_i \, r + d \right) + \beta \qquad
  r = \mathrm{clip}_{[1/r_{max},\, r_{max}]} \left( \frac{\sigma_B}{\sigma} \right) \qquad
  d = \mathrm{clip}_{[-d_{max},\, d_{max}]} \left( \frac{\mu_B - \mu}{\sigma} \right)$$

$\mu_B$ and $\sigma_B$ are the mean and the standard deviation of the batch, $\mu$ and $\sigma$ those of the running
statistics before this batch; $\epsilon$ is added to both variances. Without the limits, $\hat x_i r + d$ is
$(x_i - \mu) / \sigma$, the output at inference. But r and d are constants for the gradient. It flows through $\mu_B$
and $\sigma_B$ as in batch normalization, without which training would be unstable (§2 of the first paper). With
$r_{max} = 1$ and $d_{max} = 0$ it is batch normalization: training starts so, until the running statistics have become
reliable, and the limits are then relaxed.

So batch renormalization is batch normalization with the parameters $\gamma r$ and $\beta + \gamma d$. It needs the
moments of the batch once more, before the normalization.

The paper keeps a moving average of $\sigma_B$. Here it is that of the variance, as without renormalization, so that
state dicts remain interchangeable and inference remains the same.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bn.norm.functional import LOCAL
from labml_bn.norm.kernels.reference import widen
from labml_bn.norm.masking import kept
from labml_bn.norm.recomputation import before_update


@dataclass(frozen=True)
class Renormalization:
    r"""The limits of r and d, and the numbers of batches at which they begin and end to be relaxed, linearly.

    The defaults are those of the paper (§4): batch normalization for 5,000 steps, then r up to 3 at 40,000 steps and d
    up to 5 at 25,000. The steps are counted by `num_batches_tracked`.

    Arguments:
        r_max: the limit of r, at least 1 and finite
        d_max: the limit of d, at least 0 and finite
        start: the number of batches during which r is 1 and d is 0
        r_end, d_end: the numbers of batches from which the limits are `r_max` and `d_max`, at least `start`

    Raises ValueError if one of them is out of range.
    """

    r_max: float = 3.0
    d_max: float = 5.0
    start: int = 5_000
    r_end: int = 40_000
    d_end: int = 25_000

    def __post_init__(self) -> None:
        """Raise ValueError if a limit or a number of batches is out of range."""
        if not 1 <= self.r_max < math.inf:
            raise ValueError(f"r_max must be at least 1 and finite, got {self.r_max}")
        if not 0 <= self.d_max < math.inf:
            raise ValueError(f"d_max must be at least 0 and finite, got {self.d_max}")
        if not 0 <= self.start <= min(self.r_end, self.d_end):
            raise ValueError(
                f"start must be in [0, r_end] and [0, d_end], got {self.start}, {self.r_end} and {self.d_end}"
            )

    def limits(self, batches: Tensor) -> tuple[Tensor, Tensor]:
        """The limits of r and d after this number of batches, a scalar tensor."""
        relaxed_r = self._relaxed(batches, self.r_end)
        relaxed_d = self._relaxed(batches, self.d_end)
        return 1 + (self.r_max - 1) * relaxed_r, self.d_max * relaxed_d

    def _relaxed(self, batches: Tensor, end: int) -> Tensor:
        """0 up to `start`, 1 from `end` on, and linear between them."""
        return ((batches - self.start) / max(end - self.start, 1) + float(end == self.start)).clamp(0, 1)

    def correct(self, layer: _BatchNorm, x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        r"""The parameters with which batch normalization of x is its renormalization: $\gamma r$, $\beta + \gamma d$.

        x is [batch, channels, *], and `weights` those of its positions, [batch, 1, *], or None.
        """
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert layer.num_batches_tracked is not None
        state = before_update(layer, layer.running_mean, layer.running_var, layer.num_batches_tracked)
        running_mean, running_var, batches = state
        _, mean, var = LOCAL.moments(kept(x.detach(), weights), weights)
        deviation = torch.sqrt(widen(running_var) + layer.eps)
        r_max, d_max = self.limits(batches.to(deviation.dtype))
        r = (torch.sqrt(var + layer.eps) / deviation).clamp(1 / r_max, r_max)
        d = ((mean - widen(running_mean)) / deviation).clamp(-d_max, d_max)
        scale, shift = (r, d) if layer.weight is None else (layer.weight * r, layer.weight * d)
        return scale, shift if layer.bias is None else layer.bias + shift
