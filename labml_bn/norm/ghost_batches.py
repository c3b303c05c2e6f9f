r"""Ghost batches: the statistics of parts of a batch (Hoffer et al. 2017, *Train longer, generalize better*, §4).

The noise of the statistics of small batches regularizes, and with large batches it is lost. Ghost batch normalization
keeps it: the batch is divided into smaller ghost batches, and each is normalized with its own statistics. The running
statistics are updated once for each ghost batch, in their order, as if these were separate batches (Algorithm 1 there).
"""

import math

from torch import Tensor

Batch = tuple[Tensor, Tensor | None]


def ghost_batches(x: Tensor, weights: Tensor | None, size: int) -> list[Batch]:
    """Divide x [batch, channels, *] and the weights of its positions, if any, into batches of at most `size` samples.

    If `size` does not divide the batch, the parts are of nearly the same size: 33 samples become 17 and 16, not 32 and
    1, because the statistics of a small rest would be the noisiest, and those of a single sample may not exist. So the
    last, smaller batch of an epoch needs no special treatment.
    """
    samples = x.shape[0]
    parts = max(1, math.ceil(samples / size))
    sizes = [samples // parts + int(part < samples % parts) for part in range(parts)]
    # Not `tensor_split`, whose backward pass writes a tensor of the size of the batch for each part.
    split_weights = [None] * parts if weights is None else weights.split(sizes)
    return list(zip(x.split(sizes), split_weights, strict=True))
