"""Claim 14: weight decay before batch normalization is a rising learning rate.

Source: Li & Arora 2019, arXiv:1910.07454, after van Laarhoven 2017, arXiv:1706.05350. Only their abstracts and
summaries could be read, so the formulas are derived here. BN(Wu) does not depend on the length of W. SGD at the rate η
with weight decay λ and momentum μ is w ← w + μ(w − w') − η(g(w) + λw), where w' is the previous w and g the gradient.
Let v = w/αᵗ at step t, which the network cannot tell from w, and use g(αᵗv) = g(v)/αᵗ. If α² − (1 + μ − ηλ)α + μ = 0
(without momentum, α = 1 − ηλ), v follows SGD with momentum μ, without decay, at the rate η·α^(−2t−1). It starts with
the momentum that v has at step 0.

Measured: the losses of a network in float64, trained with decay, and from the same weights on the same batches with the
rising rate, with and without momentum. ε is 1e-30, because scale invariance is exact only without it. γ, β and the last
layer have no decay and a constant rate in both. Of the losses a and b at a step, the difference is |a − b| / max(a, b).

Refuted if: the difference exceeds 1e-6 at a step. Rounding is 1e-16, which training amplifies; an error of the formula
in a single step would change the rate by 1 % or more. As a control, training with neither decay nor a rising rate must
differ by more than 0.1: otherwise the decay does nothing here, and the losses agree for that reason.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, above, below, curve, images, panels
from experiments.machinery.command import main
from labml_bn import BatchNorm

#: η, λ, and each μ. With them α is 0.99 and 0.98.
RATE, DECAY, MOMENTA = 0.1, 0.1, (0.0, 0.5)

#: What is more than rounding, and what is a difference between two ways to train.
ROUNDING, DIFFERENT = 1e-6, 0.1


def exact(channels: int) -> nn.Module:
    """Batch normalization with as good as no ε."""
    return BatchNorm(channels, eps=1e-30)


def measure(
    trial: Trial, *, steps: int, samples: int, norm: Callable[[int], nn.Module] = exact, exponent: float = 2
) -> Measured:
    """The losses at every step of three ways to train. In the rising rate, `exponent` is the 2 of α^(−2t−1)."""
    inputs, labels = images("train", samples).batch(slice(None))
    start = nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 100, bias=False), norm(100), nn.ReLU()),
        *(nn.Linear(100, 100, bias=False), norm(100), nn.ReLU(), nn.Linear(100, 10)),
    ).double()
    batches = [(inputs[index].double(), labels[index]) for index in torch.randint(samples, (steps, 64))]
    measured: dict[str, Tensor] = {}
    for momentum in MOMENTA:
        b = 1 + momentum - RATE * DECAY
        alpha = (b + (b * b - 4 * momentum) ** 0.5) / 2
        rising = [RATE * alpha ** (-exponent * step - 1) for step in range(steps)]
        constant = [RATE] * steps
        measured |= {
            f"decay {momentum}": losses(start, batches, constant, momentum, decay=DECAY),
            f"rising rate {momentum}": losses(start, batches, rising, momentum, alpha=alpha),
            f"neither {momentum}": losses(start, batches, constant, momentum),
            f"rate {momentum}": torch.tensor(rising),
        }
    return measured


def losses(
    start: nn.Sequential,
    batches: list[tuple[Tensor, Tensor]],
    rates: list[float],
    momentum: float,
    decay: float = 0.0,
    alpha: float = 1.0,
) -> Tensor:
    """The loss at each step. The rates and the decay are for the linear layers before a normalization."""
    network = copy.deepcopy(start)
    *normalized, last = (parameter for parameter in network.parameters() if parameter.ndim == 2)
    others = [last, *(parameter for parameter in network.parameters() if parameter.ndim == 1)]
    optimizer = torch.optim.SGD([{"params": others}], lr=RATE, momentum=momentum)
    optimizer.add_param_group({"params": normalized, "weight_decay": decay})
    for weight in normalized:  # v = w and v' = αw; PyTorch's buffer is (v' − v) / η', where η' = ηα is the rate before
        optimizer.state[weight]["momentum_buffer"] = weight.detach() * (alpha - 1) / (RATE * alpha)
    values = []
    for rate, (inputs, labels) in zip(rates, batches, strict=True):
        optimizer.param_groups[1]["lr"] = rate
        loss = F.cross_entropy(network(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.detach())
    return torch.stack(values)


def differences(found: Found, one: str, other: str) -> NDArray[np.float64]:
    """The differences of two losses [seeds, steps], from 0 to 1. Where one is not finite, it is 1."""
    a, b = found[one], found[other]
    relative: NDArray[np.float64] = np.nan_to_num(np.abs(a - b) / np.maximum(a, b), nan=1.0)
    return relative


def judge(found: Found) -> list[Criterion]:
    """The two ways are the same, and the third is another."""
    criteria = []
    for momentum in MOMENTA:
        same = differences(found, f"decay {momentum}", f"rising rate {momentum}").max(axis=1)
        control = differences(found, f"decay {momentum}", f"neither {momentum}").max(axis=1)
        criteria += [
            below(f"decay or rising rate, momentum {momentum:g}: largest difference of losses", same, ROUNDING),
            above(f"decay or neither, momentum {momentum:g}: largest difference of losses", control, DIFFERENT),
        ]
    return criteria


def draw(found: Found) -> Figure:
    """The losses, the rates and the differences over the steps."""
    figure, (left, middle, right) = panels(
        f"Training loss of seed 1, momentum {MOMENTA[1]}",
        "Rate without decay that replaces the decay",
        "Difference of losses",
    )
    steps = np.arange(found["rate 0.0"].shape[1])
    few = steps[:: max(1, len(steps) // 25)]  # so that the markers can be told apart
    for number, name in enumerate(("decay", "rising rate", "neither")):
        curve(left, few, found[f"{name} {MOMENTA[1]}"][:1, few], name, number)
    for number, momentum in enumerate(MOMENTA):
        label = f"momentum {momentum:g}"
        curve(middle, few, found[f"rate {momentum}"][:, few], label, number)
        for name, colour in (("rising rate", number), ("neither", number + 2)):
            values = differences(found, f"decay {momentum}", f"{name} {momentum}").max(axis=0)
            curve(right, few, np.maximum(values[None, few], 1e-18), f"decay or {name}, {label}", colour)
    right.axhline(ROUNDING, color="black", linestyle="--")
    right.text(steps[-1], ROUNDING * 3, "bound of the claim", fontsize="small", ha="right")
    for axes, what in ((left, "loss"), (middle, "learning rate"), (right, "largest difference of all seeds")):
        axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel(what)
        axes.legend(fontsize="small", loc=(0.3, 0.32) if axes is right else "best")
    return figure


EXPERIMENT = Experiment(
    measure, judge, draw, seeds=8, size={"steps": 300, "samples": 6000}, quick={"steps": 150, "samples": 1000}
)

if __name__ == "__main__":
    main(__file__)
