"""Claim 3: a bias before batch normalization has no effect.

Source: Ioffe & Szegedy 2015, §3.2, as summarised by this project. In BN(Wu + b) the mean subtraction cancels b, and β
takes its role. So the output is the same with any bias, and the gradient of the bias is 0.

Measured: a convolution and a linear layer, each with a random bias up to 10 standard deviations of its output, before
the normalization. (a) The largest difference between the output and that without a bias, where the outputs have
variance 1. (b) The norm of the gradient of the bias, relative to that of the same bias without a normalization.

Refuted if: either is more than rounding. In float32 a bias b costs its sum with Wu |b|·2⁻²⁴, 6e-7 for 10 standard
deviations; a hundred times that is the bound.
"""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, bars, below, panels
from experiments.machinery.command import main
from labml_bn import BatchNorm

#: What is more than rounding.
ROUNDING = 6e-5


def measure(trial: Trial, *, batch: int, channels: int, norm: type[nn.Module] = BatchNorm) -> Measured:
    """The largest change of the output and the relative norm of the bias's gradient, for both kinds of layer."""
    convolution, images = nn.Conv2d(3, channels, 5), torch.randn(batch, 3, 12, 12)
    linear, vectors = nn.Linear(100, channels), torch.randn(batch, 100)
    return {
        **bias_before(norm(channels), convolution, images, "convolution"),
        **bias_before(norm(channels), linear, vectors, "linear"),
    }


def bias_before(norm: nn.Module, layer: nn.Conv2d | nn.Linear, u: Tensor, name: str) -> dict[str, float]:
    """What the bias of the layer changes in the output and, in a loss with random weights, in the gradient."""
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias.zero_()
        spread = layer(u).std()
        without_bias = norm(layer(u))
        layer.bias.uniform_(-10, 10).mul_(spread)
        with_bias = norm(layer(u))
    weights = torch.randn_like(with_bias)
    (normalized,) = torch.autograd.grad((norm(layer(u)) * weights).sum(), layer.bias)
    (plain,) = torch.autograd.grad((layer(u) * weights).sum(), layer.bias)
    return {
        f"{name}: change of the output": float((with_bias - without_bias).abs().max()),
        f"{name}: gradient of the bias": float(normalized.norm() / plain.norm()),
    }


def judge(found: Found) -> list[Criterion]:
    """All four are rounding."""
    return [below(what, values, ROUNDING) for what, values in found.items()]


def draw(found: Found) -> Figure:
    """Each number for every seed, and the bound."""
    figure, (axes,) = panels("What a bias of up to 10 standard deviations changes")
    bars(axes, {what.replace(": ", ":\n"): np.maximum(values, 1e-9) for what, values in found.items()})
    axes.axhline(ROUNDING, color="black", linestyle="--", label="bound of the claim")
    axes.set_yscale("log")
    axes.set_ylabel("change, where the output has variance 1;\ngradient, relative to that without normalization")
    axes.tick_params(axis="x", labelsize="small")
    return figure


EXPERIMENT = Experiment(measure, judge, draw, seeds=20, size={"batch": 256, "channels": 64}, quick={"batch": 16})

if __name__ == "__main__":
    main(__file__)
