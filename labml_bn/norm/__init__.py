r"""Batch normalization, from the paper's equations to a PyTorch layer: an article in code.

The paper is Ioffe & Szegedy 2015, *Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift*, arXiv 1502.03167. All section (§), algorithm and step numbers in this package refer to it.

**The problem** (abstract, §1). The inputs of each layer are the outputs of the layers before it. The distribution of
these inputs changes during training, because the parameters of the preceding layers change, and each layer must keep
adapting to it. The paper calls this *internal covariate shift*, and attributes three difficulties to it: training
requires small learning rates, it requires careful initialization, and networks with saturating nonlinearities such as
the sigmoid are hard to train.

**The idea** (§2, §3). Normalize the inputs of each layer to mean 0 and variance 1, and make the normalization a part of
the network, so that gradients flow through it. Full whitening would also remove the correlations between the inputs. It
is expensive, because it requires the inverse square root of their covariance matrix and its derivative. The paper makes
two simplifications:

1. Each scalar input is normalized independently; in a convolutional layer, each channel.
2. The mean and the variance are those of the mini-batch, not of the training set.

Normalization alone could reduce what a layer can represent. For example, it would keep the input of a sigmoid in the
nearly linear part. Therefore each channel has a learned scale $\gamma$ and a learned shift $\beta$, which can restore
the original mean and variance if that is optimal.

**Why gradients must flow through the normalization** (§2). Consider a layer that adds a learned bias $b$ to its input
$u$ and then subtracts the mean: $\hat x = x - E[x]$ with $x = u + b$. Suppose that gradient descent ignores that $E[x]$
depends on $b$. It updates $b$ by $\Delta b$, proportional to $-\partial\ell / \partial\hat x$. The new output is

$$u + (b + \Delta b) - E[u + (b + \Delta b)] = u + b - E[u + b]$$

which is the old output. Neither the output nor the loss has changed, so with all other parameters fixed the next update
of $b$ is the same, and $b$ grows without bound. With the gradient through $E[x]$ included, the gradient of $b$ is 0.

**What has been disputed since.** That batch normalization works is not in doubt; the reason is. In an influential
study, Santurkar et al. 2018, *How Does Batch Normalization Help Optimization?*, arXiv 1805.11604, noise with a changing
mean and variance was added after the normalization. The distributions of the layers' inputs became less stable than
without batch normalization, yet the network trained about as well as without the noise, and better than without batch
normalization. They also redefined the shift by its effect on optimization, as the change of a layer's gradient when the
preceding layers are updated, and found that batch normalization does not necessarily reduce it. Their explanation is
that the loss landscape becomes smoother: the loss and its gradient change more slowly along a step of gradient descent,
so larger steps can be taken.

**What to read, in this order:**

1. `kernels/__init__.py`: the four operations, and their cost; `kernels/reference.py`: each with its equation
2. `functional.py`: the differentiable function and the derivation of its gradient
3. `batch_norm.py`: the layer; `running_statistics.py`: what it averages for inference
4. `population.py`: the statistics for inference, computed after training
5. `folding.py`: the normalization merged into the preceding layer
6. `converting.py`: PyTorch's layers replaced by this one, and back

**Beyond the paper:**

7. `masking.py`: batches of which not all positions count
8. `ghost_batches.py`, `renormalization.py`: batches that are larger or smaller than the statistics need
9. `freezing.py`: running statistics that stay as they are
10. `recomputation.py`: under activation checkpointing, each batch counts once
11. `diagnosis/__init__.py`: why a network does worse in evaluation than in training
12. `whitening.py`: full whitening, of which the layer is a simplification

`dimensions.py` has the layer as an instance of PyTorch's `BatchNorm1d`, `2d` and `3d`, which 5 and 6 use. `hooks.py`
has the context managers that 4, 6 and 11 use, `batches.py` says what 4 and 11 call a network with, and `transforms.py`
what PyTorch does with the layer besides calling it.
"""

from labml_bn.norm.batch_norm import BatchNorm
from labml_bn.norm.converting import convert_batch_norm, restore_batch_norm
from labml_bn.norm.diagnosis import diagnose
from labml_bn.norm.dimensions import BatchNorm1d, BatchNorm2d, BatchNorm3d
from labml_bn.norm.folding import fold
from labml_bn.norm.freezing import freeze, frozen_statistics, unfreeze
from labml_bn.norm.population import estimate_population
from labml_bn.norm.renormalization import Renormalization

__all__ = [
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Renormalization",
    "convert_batch_norm",
    "diagnose",
    "estimate_population",
    "fold",
    "freeze",
    "frozen_statistics",
    "restore_batch_norm",
    "unfreeze",
]
