r"""Statistics of a layer's inputs: their average over batches, their variation between batches, how far two are apart.

For a channel, let $n_b$ be the number of samples in batch $b$, $\mu_b$ and $\sigma_b^2$ their mean and variance, $N$
the number of all samples and $k$ that of the batches. The population's mean is $\mu = \sum_b n_b \mu_b / N$. The
variation between the batches, per sample,

$$s^2 = \frac{1}{k - 1} \sum_b n_b (\mu_b - \mu)^2$$

does not depend on the size of the batches if their samples are drawn independently: it is then the variance of one
sample's mean, and that of a batch's mean is $s^2 / n$. The mean square between groups in an analysis of variance is the
same expression. The quotient of $s^2$ and its estimate from within the batches, the mean square within groups, is
therefore about 1 for shuffled batches, and larger for sorted ones.
"""

import math
import statistics
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from labml_bn.norm.masking import is_one_value, kept, masked_moments, position_weights


class Statistics(NamedTuple):
    """A mean and a variance for each channel, both [channels]."""

    mean: Tensor
    var: Tensor


@dataclass(frozen=True)
class Shift:
    """How far a mean and a variance are from others, over all channels; `Shift(0, 1)` is not at all.

    `mean` is the difference of the means in standard deviations of the others (root mean square over the channels).
    `var` is the factor between the variances, at least 1 (exponential of the root mean square of its logarithm).
    """

    mean: float
    var: float

    @classmethod
    def between(
        cls, one: Statistics, other: Statistics, eps: float, by_chance: "tuple[Tensor | float, Tensor | float]" = (0, 0)
    ) -> "Shift":
        """From the `other` statistics to the `one`.

        `by_chance` are the expected squares of both if only chance separates the two, for each channel: of the
        difference in standard deviations, and of the relative difference of the variances. They are subtracted. `eps`
        is added to the variances, as the layer does: what is far below it makes no difference.
        """
        mean = (one.mean - other.mean).square() / (other.var + eps) - by_chance[0]
        log_ratio = ((one.var + eps) / (other.var + eps)).log().square() - by_chance[1]
        return cls.of_squares(mean.clamp(min=0).mean().item(), log_ratio.clamp(min=0).mean().item())

    @classmethod
    def of_squares(cls, mean: float, log_ratio: float) -> "Shift":
        """From the mean squares over the channels."""
        exponent = math.sqrt(log_ratio)
        return cls(math.sqrt(mean), math.exp(exponent) if not exponent > 700 else math.inf)

    def scaled(self, factor: float) -> "Shift":
        """The shift if all differences, also of the logarithms, were so many times as large."""
        return Shift(self.mean * factor, self.var**factor)

    def __str__(self) -> str:
        return f"{self.mean:.3g} sd, ×{self.var:.3g}"


class _Average:
    """A weighted average of vectors, and the weighted sum of the squared differences from it (West 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.weight = 0.0
        self.mean: Tensor = torch.zeros(())
        self.squares: Tensor = torch.zeros(())

    def add(self, value: Tensor, weight: float) -> None:
        self.count += 1
        self.weight += weight
        difference = value - self.mean
        self.mean = self.mean + difference * (weight / self.weight)
        self.squares = self.squares + weight * difference * (value - self.mean)

    @property
    def between(self) -> Tensor:
        """$s^2$: the variation between the vectors, for each unit of weight."""
        return self.squares / (self.count - 1)


class InputMoments:
    """The moments of a layer's inputs, batch by batch; only per-channel vectors in float64 are kept.

    `unbiased` says whether the variances are the unbiased ones, as the layer's `running_var` has.
    """

    def __init__(self, *, unbiased: bool) -> None:
        self._unbiased = unbiased
        self._sizes: list[int] = []
        self._mean, self._var, self._within = _Average(), _Average(), _Average()

    def add(self, x: Tensor, samples: int, mask: Tensor | None = None) -> Statistics:
        """Add the input x [batch, channels, *] for so many samples of the network. Returns its statistics.

        Raises ValueError if the variances are the unbiased ones, and there is only one value per channel.
        """
        weight, squared_weights, mean, var = masked_moments(x, mask)
        if self._unbiased:
            if is_one_value(weight, squared_weights):
                raise ValueError(
                    f"expected more than one value per channel in a batch, got an input of {tuple(x.shape)}"
                    f"{'' if mask is None else ' of which the mask keeps one'}"
                )
            var = var * (weight / (weight - squared_weights / weight))
        self._sizes.append(samples)
        self._mean.add(mean, samples)
        self._var.add(var, samples)
        if len(x) == samples > 1:
            self._within.add(_sample_means(x, mask).var(0) if x.dim() > 2 else var, samples - 1)
        return Statistics(mean, var)

    @property
    def batch_size(self) -> int:
        """The most frequent number of samples in a batch."""
        return statistics.mode(self._sizes)

    @property
    def samples(self) -> int:
        """The number of samples in all batches."""
        return sum(self._sizes)

    def average(self) -> Statistics:
        """The averages of the batches' means and variances, as `estimate_population(estimator="batches")` has them."""
        return Statistics(self._mean.mean, self._var.mean)

    def pooled(self) -> Statistics:
        """The mean and variance of all values together: within the batches, and between them."""
        return Statistics(self._mean.mean, self._var.mean + self._mean.squares / self.samples)

    def per_sample(self, eps: float) -> tuple[Tensor, Tensor]:
        """What batches of one sample would vary by; batches of n samples vary by 1/n of it.

        For each channel, the variance of their mean in units of σ², and that of their variance in units of σ⁴. From a
        single batch, both are estimated from the samples in it.
        """
        var = self._var.mean + eps
        if self._mean.count == 1:
            within = self._within.mean / var
            return within, 2 * within  # the square of a normal variable has the variance 2 σ⁴
        return self._mean.between / var, self._var.between / var.square()

    def sorting(self, eps: float) -> float:
        """The variation between the batches over that of random samples, which is 1; NaN if it is unknown."""
        if self._mean.count == 1 or self._within.count == 0:
            return math.nan
        var = self._var.mean + eps
        return ((self._mean.between / var).mean() / (self._within.mean / var).mean()).item()


def _sample_means(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of each sample and channel of x [batch, channels, *] in float64, without samples that do not count."""
    if mask is None:
        return x.detach().double().flatten(2).mean(2)
    weights = position_weights(mask, x).double()
    sums, totals = (kept(x.detach().double(), weights) * weights).flatten(2).sum(2), weights.flatten(1).sum(1)
    return sums[totals > 0] / totals[totals > 0, None]
