"""Claim 13: batch normalization makes residual blocks nearly the identity: block ℓ's branch has the share 1/(ℓ + 1).

Source: De & Smith 2020, "Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks",
arXiv 2002.10444, from its abstract and introduction; the number is as summarised by this project.

The derivation: block ℓ adds its branch to its input, x + f(x). If the branch begins with a normalization, its output
has the same variance, 1, whatever the size of x. Branches with independent weights are uncorrelated, so the variances
add: the input of block ℓ has the variance ℓ, and the branch has 1 / (ℓ + 1) of the sum. Without normalization the
branch has the variance of its input, which every block doubles, and the share is 1/2 at every depth.

Variance is over the random weights, which have mean 0, so it is the mean square over images, positions and channels.

Measured: in an untrained convolutional network of pre-activation blocks, x + W₂ ReLU(BN(W₁ ReLU(BN(x)))), with MNIST
images as its input, the mean square of each branch, as a share of that of the branch and the input together. (a) The
geometric mean over the blocks of share · (ℓ + 1). (b) The slope of log share over log (ℓ + 1). (c) The mean share
without normalization.

Refuted if: (a) is outside 0.9 to 1.1; (b) is outside −1.1 to −0.9, so that over 30 blocks the share is off by more than
√2; or (c) is outside 0.45 to 0.55, so that the shares are small for another reason.
"""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, curve, images, panels, within
from experiments.machinery.command import main
from labml_bn import BatchNorm

Norm = Callable[[int], nn.Module]


def measure(trial: Trial, *, blocks: int, channels: int, batch: int, norm: Norm = BatchNorm) -> Measured:
    """The share of each block's branch, with and without normalization, and the mean square of its input."""
    pixels, _ = images("train", 60_000).batch(torch.randperm(60_000)[:batch])
    # Half the resolution is enough. The first convolution has as its output what the blocks begin with: mean square 1.
    x = convolution(F.avg_pool2d(pixels, 2), channels)
    x = x / x.square().mean().sqrt()
    measured = {}
    for name, layer in {"normalized": norm, "not normalized": nn.Identity}.items():
        inputs, branches = mean_squares(x, blocks, layer)
        measured[f"{name}: share"] = branches / (inputs + branches)
        measured[f"{name}: input"] = inputs
    return measured


@torch.no_grad()
def mean_squares(x: Tensor, blocks: int, norm: Norm) -> tuple[Tensor, Tensor]:
    """The mean squares of the inputs and of the branches of random blocks, each [blocks]."""
    inputs, branches = [], []
    for _ in range(blocks):
        channels = x.shape[1]
        inner = convolution(norm(channels)(x).relu(), channels)
        branch = convolution(norm(channels)(inner).relu(), channels)
        inputs.append(x.square().mean())
        branches.append(branch.square().mean())
        x = x + branch
    return torch.stack(inputs), torch.stack(branches)


def convolution(x: Tensor, channels: int) -> Tensor:
    """A random convolution of 3 × 3, with weights of variance 2 / inputs (He et al. 2015).

    The image is continued at its borders by its mirror image: zeros would make the output smaller there.
    """
    fan_in = 9 * x.shape[1]
    weights = torch.randn(channels, x.shape[1], 3, 3) * (2 / fan_in) ** 0.5
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weights)


def judge(found: Found) -> list[Criterion]:
    """The share is 1/(ℓ + 1) in size and in slope, and is 1/2 without normalization."""
    share = found["normalized: share"]
    after = np.arange(2, share.shape[1] + 2)
    slopes = [np.polyfit(np.log(after), np.log(each), 1)[0] for each in share]
    return [
        within("share · (ℓ + 1)", np.exp(np.log(share * after).mean(1)), 0.9, 1.1),
        within("slope of log share over log (ℓ + 1)", slopes, -1.1, -0.9),
        within("share without normalization", found["not normalized: share"].mean(1), 0.45, 0.55),
    ]


def draw(found: Found) -> Figure:
    """The shares and the mean squares of the inputs over the blocks, and the theory."""
    figure, (shares, inputs) = panels("Share of the branch in the output of its block", "Input of each block")
    blocks = np.arange(1, found["normalized: share"].shape[1] + 1)
    for number, name in enumerate(["normalized", "not normalized"]):
        curve(shares, blocks, found[f"{name}: share"], name, number)
        curve(inputs, blocks, np.log10(found[f"{name}: input"]), name, number)
    shares.plot(blocks, 1 / (blocks + 1), "k--", label="theory: 1/(ℓ + 1)")
    shares.plot(blocks, np.full(len(blocks), 0.5), "k:", label="theory: 1/2")
    inputs.plot(blocks, np.log10(blocks), "k--", label="theory: ℓ")
    inputs.plot(blocks, np.log10(2) * (blocks - 1), "k:", label="theory: 2^(ℓ − 1)")
    shares.set_yscale("log")
    for axes, what in ((shares, "share of the mean square"), (inputs, "log₁₀ of the mean square")):
        axes.set_xlabel("block ℓ")
        axes.set_ylabel(what)
        axes.legend(fontsize="small")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    seeds=20,
    size={"blocks": 30, "channels": 64, "batch": 128},
    quick={"blocks": 10, "batch": 16},
)

if __name__ == "__main__":
    main(__file__)
