"""Claim 12: at initialization, batch normalization makes the gradient of a ReLU network grow by 1.21 a layer.

Source: Yang et al. 2019, "A Mean Field Theory of Batch Normalization", arXiv 1902.08129, from its abstract, and Luther
2020, "Why Batch Norm Causes Exploding Gradients", which derives the number. The whole paper could not be read.

The derivation: the output of a normalization is a standard normal variable z, and ReLU(z) has the variance
(π − 1) / 2π. Weights of variance 2 / inputs double it. So the next normalization gets the variance σ² = (π − 1) / π,
and divides the gradient by σ on the way back. The ReLU and the weights keep the size of the gradient, as in a network
without normalization (He et al. 2015). So the norm grows by 1/σ = √(π / (π − 1)) ≈ 1.211 from a layer to the one before
it. By the abstract no variance of the weights prevents this. The number is for wide layers, large batches, and layers
so deep that the images no longer matter. So it is measured in the deeper half.

Measured: the norm of the gradient by the input of each normalization, in an untrained fully connected network with
MNIST images as its input and a loss with random weights. The growth is the geometric mean over the deeper half of the
layers: (a) with normalization, (b) with normalization and weights three times as large, (c) without normalization.

Refuted if: (a) or (b) is outside 1.19 to 1.23, so that the exponent, ln 1.211 = 0.19, is wrong by a tenth; or (c) is
outside 0.98 to 1.02, a tenth of that exponent, so that the growth has another cause.
"""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, bars, curve, images, panels, within
from experiments.machinery.command import main
from labml_bn import BatchNorm

#: What the theory says.
GROWTH = float(np.sqrt(np.pi / (np.pi - 1)))

#: The names of the networks.
NORMALIZED, LARGER, PLAIN = "normalized", "normalized,\n3 × weights", "not normalized"


def measure(
    trial: Trial,
    *,
    depth: int,
    width: int,
    batch: int,
    norm: Callable[[int], nn.Module] = BatchNorm,
    activation: Callable[[Tensor], Tensor] = torch.relu,
) -> Measured:
    """The norms of the gradients of each network, from the first layer to the last."""
    pixels, _ = images("train", 60_000).batch(torch.randperm(60_000)[:batch])
    x = pixels.flatten(1)
    return {
        NORMALIZED: gradient_norms(x, depth, width, norm, activation),
        LARGER: gradient_norms(x, depth, width, norm, activation, scale=3),
        PLAIN: gradient_norms(x, depth, width, nn.Identity, activation),
    }


def gradient_norms(
    x: Tensor,
    depth: int,
    width: int,
    norm: Callable[[int], nn.Module],
    activation: Callable[[Tensor], Tensor],
    scale: float = 1,
) -> Tensor:
    """The norm of the gradient by Wx, for each layer activation(norm(Wx)) of a random network [depth]."""
    inputs = []
    for _ in range(depth):
        fan_in = x.shape[1]
        weights = torch.randn(fan_in, width) * scale * (2 / fan_in) ** 0.5
        inputs.append((x @ weights).requires_grad_())
        x = activation(norm(width)(inputs[-1]))
    gradients = torch.autograd.grad((x * torch.randn_like(x)).sum(), inputs)
    return torch.stack([gradient.norm() for gradient in gradients])


def growths(found: Found) -> dict[str, np.ndarray]:
    """The growth from a layer to the one before it, in the deeper half, for each network [seeds]."""
    logarithms = {name: np.log(norms) for name, norms in found.items()}
    half = {name: values[:, values.shape[1] // 2 :] for name, values in logarithms.items()}
    return {name: np.exp((values[:, 0] - values[:, -1]) / (values.shape[1] - 1)) for name, values in half.items()}


def judge(found: Found) -> list[Criterion]:
    """The growth is the theory's with normalization, whatever the weights, and there is none without it."""
    growth = growths(found)
    return [
        within("growth a layer", growth[NORMALIZED], 1.19, 1.23),
        within("growth a layer, weights 3 times as large", growth[LARGER], 1.19, 1.23),
        within("growth a layer without normalization", growth[PLAIN], 0.98, 1.02),
    ]


def draw(found: Found) -> Figure:
    """The norms over the layers, relative to the last, and the growth in the deeper half."""
    figure, (norms, growth) = panels("Gradient of each layer at initialization", "Growth a layer in the deeper half")
    layers = np.arange(1, found[NORMALIZED].shape[1] + 1)
    for number, (name, values) in enumerate(found.items()):
        curve(norms, layers, values / values[:, -1:], name.replace("\n", " "), number)
    norms.plot(layers, GROWTH ** (layers[-1] - layers), "k--", label="theory: 1.211 a layer")
    norms.set_yscale("log")
    norms.set_xlabel("layer")
    norms.set_ylabel("norm of the gradient, relative to the last layer")
    norms.legend(fontsize="small")
    bars(growth, growths(found))
    growth.axhline(GROWTH, color="black", linestyle="--")
    growth.set_ylabel("factor from a layer to the one before it")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    seeds=10,
    size={"depth": 50, "width": 1024, "batch": 1024},
    quick={"depth": 20, "width": 512, "batch": 512},
)

if __name__ == "__main__":
    main(__file__)
