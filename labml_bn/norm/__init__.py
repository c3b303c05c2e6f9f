r"""Batch normalization, from the paper's equations to a PyTorch layer: an article in code.

The paper is Ioffe & Szegedy 2015, *Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift*, arXiv 1502.03167. All section (§), algorithm and step numbers in this package refer to it.

**The problem** (§1). The inputs of each layer are the outputs of the layers before it. Their distribution changes
during training, because the parameters of those layers change, and each layer must keep adapting to the new
distribution. The paper calls this *internal covariate shift*. It holds the shift responsible for three difficulties:
training requires small learning rates, it requires careful initialization, and networks with saturating nonlinearities
such as the sigmoid are hard to train.

**The idea** (§2, §3). Normalize the inputs of each layer to mean 0 and variance 1, and make the normalization a part of
the network, so that gradients flow through it. Full whitening would also remove the correlations between the inputs. It
is expensive, because it requires the inverse square root of their covariance matrix and its derivative. The paper makes
two simplifications:

1. Each channel is normalized independently.
2. The mean and the variance are those of the mini-batch, not of the training set.

Normalization alone could reduce what a layer can represent. For example, it would keep the input of a sigmoid in the
nearly linear part. Therefore each channel has a learned scale $\gamma$ and a learned shift $\beta$, which can restore
the original mean and variance if that is optimal.

**Why gradients must flow through the normalization** (§2). Consider a layer that adds a learned bias $b$ to its input
$u$ and then subtracts the mean: $\hat x = x - E[x]$ with $x = u + b$. Suppose that gradient descent ignores that $E[x]$
depends on $b$. It updates $b$ by $\Delta b$, proportional to $-\partial\ell / \partial\hat x$. The new output is

$$u + (b + \Delta b) - E[u + (b + \Delta b)] = u + b - E[u + b]$$

which is the old output. The loss has not changed, so the next update is the same, and $b$ grows without bound. With the
gradient through $E[x]$ included, the gradient of $b$ is 0.

**What has been disputed since.** Batch normalization works, but the reason is debated. Santurkar et al. 2018, *How Does
Batch Normalization Help Optimization?*, arXiv 1805.11604, added noise with a changing mean and variance after the
normalization. The distributions of the layers' inputs became less stable than without batch normalization, yet the
network trained about as well as without the noise. They also measured the shift directly and found that batch
normalization does not necessarily reduce it. Their explanation is that batch normalization makes the loss landscape
smoother: the loss and its gradient change more slowly along a step of gradient descent, so larger steps are safe.

**The cost.** There are few arithmetic operations per value, so the time is mostly spent on reading and writing memory.
If each operation is one pass over the data, as in a fused kernel, then per training step

| operation | reads | writes |
|---|---|---|
| `moments` (forward) | x | |
| `normalize` (forward) | x | y |
| `gradient_sums` (backward) | x, dy | |
| `input_gradient` (backward) | x, dy | dx |

Both directions go through the data twice, because the first output value depends on all the input values of its
channel. The plain tensor operations of `kernels/reference.py` also write and read intermediate results.

**What to read, in this order:**

1. `kernels/reference.py`: the four operations, each with its equation
2. `functional.py`: the differentiable function and the derivation of its gradient
3. `batch_norm.py`: the layer, with its running statistics
4. `population.py`: the statistics for inference, computed after training
5. `folding.py`: the normalization merged into the preceding layer
6. `converting.py`: PyTorch's layers replaced by this one, and back
"""

from labml_bn.norm.batch_norm import BatchNorm
from labml_bn.norm.converting import convert_batch_norm, restore_batch_norm
from labml_bn.norm.folding import fold
from labml_bn.norm.population import estimate_population

__all__ = ["BatchNorm", "convert_batch_norm", "estimate_population", "fold", "restore_batch_norm"]
