"""Claim 11: batch normalization helps because it allows large learning rates: small ones take the advantage away.

Source: Bjorck, Gomes, Selman & Weinberger 2018, arXiv:1806.02375, of which only the abstract and a summary were at
hand. Batch normalization primarily enables larger learning rates, and these are the cause of the faster convergence and
the better generalization. At a small rate that both can use, networks with and without it reach the same accuracy.
(The paper trained a ResNet of 110 layers on CIFAR-10 for many epochs.)

Measured: the test accuracy of a network of seven hidden layers with and without batch normalization, trained by SGD
with momentum 0.9 on 10,000 images of MNIST, at nine constant rates from 1e-4 to 1, each √10 times the one before. Its
weights are initialised after He et al. 2015, with which the activations keep their size in both networks. The best rate
of each network, for each seed, is that with the highest accuracy on 5,000 held-out training images. The small rates are
the best one without normalization, and a tenth of it. A network that diverges has an accuracy of 0.1. The advantage is
the difference in accuracy to the network without normalization: the whole one between the best rates, that at a small
rate between both networks at this rate.

Refuted if: the whole advantage is not above 0, because then there is nothing to take away; or at a small rate there is
as much as half of it left, because then the larger rates are not its primary cause.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, above, bars, curve, panels
from experiments.machinery.command import main
from labml_bn.models import ConvNet
from labml_bn.settings import parsed_layers

LAYERS = "16C5S2-16C3-16C3-16C3-64N-64N-64N"

RATES = [1e-4, 3.2e-4, 1e-3, 3.2e-3, 0.01, 0.032, 0.1, 0.32, 1.0]


#: The accuracy of a network that diverged.
GUESSING = 0.1


def measure(
    trial: Trial,
    *,
    rates: Sequence[float],
    samples: int,
    held_out: int,
    test_samples: int,
    epochs: int,
    norms: Sequence[str] = ("batch_norm", "none"),
) -> Measured:
    """The held-out and the test accuracies at the rates, with the first of `norms` and with the second."""
    size = (f"train_samples={samples}", f"held_out={held_out}", f"valid_samples={test_samples}", f"epochs={epochs}")
    measured: dict[str, object] = {"rates": rates}
    for name, norm in zip(("with", "without"), norms, strict=True):
        found = [accuracies(trial, norm, rate, size) for rate in rates]
        measured |= {f"held out {name}": [pair[0] for pair in found], f"test {name}": [pair[1] for pair in found]}
    return measured


def accuracies(trial: Trial, norm: str, rate: float, size: Sequence[str]) -> tuple[float, float]:
    """The accuracies of a run on the held-out and on the test images."""
    run = trial.train(
        *(f"norm={norm}", f"layers={LAYERS}", "network=he", *size),
        *("optimizer=SGD", "optimizer.momentum=0.9", f"lr={rate:g}", "inner_iterations=1", "use_cuda=false"),
        model=lambda: initialised(ConvNet(norm, parsed_layers(LAYERS))),
    )
    found = run.metrics("accuracy.held_out", "accuracy.test")
    if not found:  # it diverged
        return GUESSING, GUESSING
    return float(found["accuracy.held_out"].values[-1, 0]), float(found["accuracy.test"].values[-1, 0])


def initialised(network: nn.Module) -> nn.Module:
    """The network with weights after He et al. 2015, and biases of 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def advantages(found: Found) -> dict[str, NDArray[np.float64]]:
    """The advantages in accuracy, [seeds]: of the best rates, and at both small rates."""
    seeds, rates = np.arange(len(found["rates"])), found["rates"][0]
    best, small = found["held out with"].argmax(axis=1), found["held out without"].argmax(axis=1)
    tenth = np.abs(np.log(rates) - np.log(rates[small, None] / 10)).argmin(axis=1)
    without = found["test without"]
    difference = found["test with"] - without
    return {
        "best rates": found["test with"][seeds, best] - without[seeds, small],
        "the best rate without": difference[seeds, small],
        "a tenth of it": difference[seeds, tenth],
    }


def judge(found: Found) -> list[Criterion]:
    """There is an advantage, and less than half of it at small rates."""
    whole, *small = advantages(found).items()
    return [
        above("advantage in test accuracy at the best rates", whole[1], 0),
        *(above(f"half of it, minus that at {name}", whole[1] / 2 - left, 0) for name, left in small),
    ]


def draw(found: Found) -> Figure:
    """The accuracies over the rates, and the advantages."""
    figure, (left, right) = panels("Test accuracy", "Advantage of batch normalization in test accuracy")
    rates = found["rates"][0]
    for number, (name, label) in enumerate((("with", "batch normalization"), ("without", "no normalization"))):
        curve(left, rates, found[f"test {name}"], label, number)
    left.set_xscale("log")
    left.set_xlabel("learning rate")
    left.set_ylabel("accuracy")
    left.set_ylim(0, 1.02)
    left.legend(fontsize="small")
    found_advantages = advantages(found)
    bars(right, found_advantages)
    half = found_advantages["best rates"].mean() / 2
    right.axhline(half, color="black", linestyle="--")
    right.text(2.45, half, "half of that at the best rates", fontsize="small", ha="right", va="bottom")
    right.set_xlabel("learning rate")
    right.set_ylabel("difference in accuracy")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    seeds=8,
    size={"rates": RATES, "samples": 10_000, "held_out": 5000, "test_samples": 10_000, "epochs": 8},
    quick={"rates": [0.0032, 0.032], "samples": 1000, "held_out": 500, "test_samples": 500, "epochs": 1},
)

if __name__ == "__main__":
    main(__file__)
