"""Claim 15: behind batch normalization, gradient descent converges at any fixed learning rate.

Source: Arora, Li & Lyu 2018, arXiv:1812.03981, of which only the abstract could be read. With a constant rate for the
scale-invariant weights, gradient descent approaches a stationary point at the rate T^−½ in T steps, as with the best
rate. (For SGD it is T^−¼.) The theory bounds the smallest gradient from above: a faster fall agrees with it, and the
constant in front depends on the rate. The gradient is taken at weights of length 1, because the gradient of a
scale-invariant loss also falls if only the weights grow. Why: the gradient g is orthogonal to the weight vector w, so a
step makes ‖w‖² larger by exactly η²‖g‖², and the effective rate η/‖w‖² falls until the steps are small enough.

Measured: gradient descent on all images at once, in float64, in a network of which every weight vector is followed by
batch normalization without γ and β (tanh instead of ReLU, because the theory needs a smooth loss), at a rate of 0.3,
the abstract's, and at ten and a hundred times this. (a) The exponent of the smallest gradient so far, from T/30 to T:
its slope in log–log scale. T is as large as a few minutes allow. (b) The squared lengths at the end, relative to those
at the start plus Σ η²‖g‖². (c) As a control, the loss at the end at the largest rate, relative to that with every
weight vector put back to its length after each step, so that the effective rate cannot fall. (The gradient would not
tell: the smallest of many at random points is small.)

Refuted if: an exponent is above −½, or (b) differs from 1 by more than 1e-6 (rounding is 1e-16 a step). Or if (c) is
not below a half: then it is not the growing length that makes the rate right. Since T is finite, a slower fall would
not refute the theorem, but that it describes training of this length.
"""

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.laboratory import (
    Criterion,
    Experiment,
    Found,
    Measured,
    Trial,
    bars,
    below,
    curve,
    images,
    panels,
)
from experiments.machinery.command import main
from labml_bn import BatchNorm

RATES = (0.3, 3.0, 30.0)
CONTROL = "30, fixed length"

#: The exponent of the claim, and the ratio of the step counts between which it is measured.
HALF, SPAN = -0.5, 30

#: What is more than rounding, and the largest part of the control's loss that is another outcome.
ROUNDING, LOWER = 1e-6, 0.5


def plain(channels: int) -> nn.Module:
    """Batch normalization without γ and β, and with as good as no ε."""
    return BatchNorm(channels, eps=1e-30, affine=False)


def measure(trial: Trial, *, steps: int, samples: int, norm: Callable[[int], nn.Module] = plain) -> Measured:
    """Losses and smallest gradients so far at some steps, the exponent and the growth of the lengths, by rate."""
    inputs, labels = images("train", samples).batch(slice(None))
    inputs = F.avg_pool2d(inputs.double(), 2)  # a quarter of the pixels: four times as many steps in the same time
    start = nn.Sequential(
        *(nn.Flatten(), nn.Linear(196, 50, bias=False), norm(50), nn.Tanh()),
        *(nn.Linear(50, 50, bias=False), norm(50), nn.Tanh(), nn.Linear(50, 10, bias=False), norm(10)),
    ).double()
    at = np.unique(np.geomspace(1, steps, 40).astype(int)) - 1
    measured: dict[str, object] = {"steps": at + 1}
    for name, rate, is_free in [*((f"{rate:g}", rate, True) for rate in RATES), (CONTROL, RATES[-1], False)]:
        losses, gradients, growth = descend(copy.deepcopy(start), inputs, labels, rate, steps, is_free)
        smallest = np.minimum.accumulate(gradients)
        measured |= {
            f"loss {name}": losses[at],
            f"gradient {name}": smallest[at],
            f"exponent {name}": math.log(smallest[-1] / smallest[steps // SPAN - 1]) / math.log(SPAN),
            f"growth {name}": growth,
        }
    return measured


def descend(
    network: nn.Sequential, inputs: Tensor, labels: Tensor, rate: float, steps: int, is_free: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Gradient descent: the losses, the gradients at length 1, and the growth of the squared lengths over that claimed.

    If not `is_free`, every weight vector keeps its length.
    """
    weights = list(network.parameters())
    lengths = [squared(weight) for weight in weights]
    claimed = sum(length.sum() for length in lengths)
    losses, gradients = [], []
    for _ in range(steps):
        loss = F.cross_entropy(network(inputs), labels)
        found = torch.autograd.grad(loss, weights)
        losses.append(loss.detach())
        at_length_1 = [squared(w) * squared(g) for w, g in zip(weights, found, strict=True)]
        gradients.append(torch.cat(at_length_1).sum())
        for weight, g, length in zip(weights, found, lengths, strict=True):
            claimed += rate**2 * squared(g).sum()
            weight.data -= rate * g
            if not is_free:
                weight.data *= (length / squared(weight)).sqrt()
    growth = sum(squared(weight).sum() for weight in weights) / claimed
    return torch.stack(losses).numpy(), torch.stack(gradients).sqrt().numpy(), float(growth)


def squared(weights: Tensor) -> Tensor:
    """The squared length of each weight vector, [vectors, 1]."""
    return weights.detach().square().sum(dim=1, keepdim=True)


def judge(found: Found) -> list[Criterion]:
    """At every rate, the gradient falls as fast as claimed and the lengths grow as claimed, but not in the control."""
    criteria = [below(f"exponent of the gradient, rate {rate:g}", found[f"exponent {rate:g}"], HALF) for rate in RATES]
    ends = found[f"loss {RATES[-1]:g}"][:, -1] / found[f"loss {CONTROL}"][:, -1]
    criteria.append(below(f"its loss at the end, relative to rate {CONTROL}", ends, LOWER))
    growths = np.stack([found[f"growth {rate:g}"] for rate in RATES], axis=1)
    worst = np.abs(growths - 1).max(axis=1)
    return [*criteria, below("squared lengths: largest relative difference from the formula", worst, ROUNDING)]


def draw(found: Found) -> Figure:
    """The gradients and the losses over the steps, and the exponents."""
    figure, (left, middle, right) = panels(
        "Smallest gradient so far, at weights of length 1",
        "Training loss",
        f"Exponent of the gradient, from T/{SPAN} to T",
    )
    steps, names = found["steps"][0], [*(f"{rate:g}" for rate in RATES), CONTROL]
    for number, name in enumerate(names):
        curve(left, steps, found[f"gradient {name}"], f"rate {name}", number)
        curve(middle, steps, found[f"loss {name}"], f"rate {name}", number)
    last = steps >= steps[-1] / SPAN
    highest = found[f"gradient {RATES[-1]:g}"].mean(axis=0)[last][0]
    left.plot(steps[last], highest * (steps[last] / steps[last][0]) ** HALF, "k--", label="T^−½")
    left.set_yscale("log")
    left.set_ylim(bottom=min(found[f"gradient {name}"].mean(axis=0)[-1] for name in names) / 3)
    for axes in (left, middle):
        axes.set_xscale("log")
        axes.set_xlabel("steps T")
        axes.legend(fontsize="small")
    left.set_ylabel("norm of the gradient")
    middle.set_ylabel("loss")
    bars(right, {name: found[f"exponent {name}"] for name in names[:-1]})
    right.axhline(HALF, color="black", linestyle="--")
    right.text(2.45, HALF, "claim: below this", fontsize="small", ha="right", va="bottom")
    right.set_xlabel("rate")
    return figure


EXPERIMENT = Experiment(
    measure, judge, draw, seeds=8, size={"steps": 30_000, "samples": 300}, quick={"steps": 600, "samples": 20}
)

if __name__ == "__main__":
    main(__file__)
