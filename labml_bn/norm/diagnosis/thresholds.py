"""The thresholds of the diagnosis, each with its reason, and the momentum that follows from them."""

import math

from labml_bn.norm.diagnosis.layers import LayerDiagnosis
from labml_bn.norm.diagnosis.moments import Shift

#: From the population's statistics to the running ones. Of 60 healthy networks for MNIST (Adam and SGD, learning rates
#: up to 0.1, 50 to 1000 steps in batches of 16 to 128), the farthest layer was at 0.18 sd and ×1.25. In networks with
#: 0.20 to 0.23 sd (momentum 0.01, 300 steps) the loss was 1.5 to 1.8 times as high as with the population's.
STATISTICS = Shift(0.2, 1.4)

#: From the training data to the evaluation data, and between the calls of a layer. In these networks, MNIST's test
#: images were at up to 0.14 sd and ×1.2 from its training images; with pixels scaled by 0.8, at ×1.7.
DATA = Shift(0.25, 1.5)

#: How far the batch moves a value of the normalized output, in standard deviations. Independent values have
#: sqrt(1.5 / n) in batches of n: 0.43 for 8, 0.31 for 16. Wu & He 2018 (Group Normalization) trained ResNet-50 in
#: batches of 16 images as well as of 32; with 8, the error was 1.1 points higher, with 4, 3.6.
NOISE = 0.4

#: The variation between batches over that of random samples, which is 1 on average, and below 3 in 95 % of the cases
#: for three batches already (F distribution). Batches of images of one class had 15 and more.
SORTED = 3.0

#: The weight that the initial values 0 and 1 may still have in the running statistics. With it, a variance of 0.05 is
#: wrong by a factor of 1.4. With less, they are the cause only if they explain half of the distance.
LEFT_OVER = 0.02

#: PyTorch's default, recommended unless the initial values need more to be forgotten.
DEFAULT_MOMENTUM = 0.1


def distance(shift: Shift | None, threshold: Shift) -> float:
    """A shift in units of its threshold: above 1 it is too far. 0 if there is none, NaN if it is not known."""
    if shift is None:
        return 0.0
    return max(shift.mean / threshold.mean, math.log(shift.var) / math.log(threshold.var))


def arriving_momentum(updates: int) -> float:
    """The momentum with which so many updates leave the initial values a weight of `LEFT_OVER`; at least PyTorch's.

    It solves (1 - momentum)^updates = LEFT_OVER, and is rounded up to two digits.
    """
    momentum = 1 - math.exp(math.log(LEFT_OVER) / updates)
    return max(DEFAULT_MOMENTUM, math.ceil(100 * momentum) / 100)


def quiet_momentum(layer: LayerDiagnosis) -> float:
    """The largest momentum with which chance moves the running statistics by no more than half of `STATISTICS`.

    In the average with momentum p, the batches' variance is multiplied by p / (2 - p). Rounded down to one digit.
    """
    share = layer.batch_share * (0.5 / distance(layer.noise_of_running, STATISTICS)) ** 2
    momentum = 2 * share / (1 + share)
    scale = math.pow(10, -math.floor(math.log10(momentum)))
    return min(1.0, math.floor(momentum * scale) / scale)
