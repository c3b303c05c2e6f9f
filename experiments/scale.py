"""Claim 4: batch normalization is invariant to the scale of the weights, and stable at larger learning rates.

Source: Ioffe & Szegedy 2015, §3.3. For a scalar a, BN((aW)u) = BN(Wu); the gradient by u is the same, and the gradient
by aW is 1/a of that by W. So larger weights get smaller gradients, and larger learning rates do not make them explode.

Measured: (1) for a from 1e-3 to 1e3, how far the output (largest difference, where it has variance 1) and both
gradients (relative norm of the difference) of a convolution with BN are from these equations. They leave out the ε that
is added to the variance, so they are judged with ε = 1e-20, and shown with the usual 1e-5 too. (2) The accuracy on
held-out images after one epoch of plain SGD at learning rates over five decades, with batch normalization and without,
and the largest of these rates at which more than half are correct. A run that diverged counts as a guess; a network
that no rate trains, as one that is trained by half the smallest.

Refuted if: (1) any difference is more than rounding: 1e-4, for sums of some hundred products rounded to 6e-8 each; or
(2) the largest rate is not larger with batch normalization.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, above, below, curve, panels
from experiments.machinery.command import main
from labml_bn import BatchNorm

ROUNDING = 1e-4
EXACT, USUAL = 1e-20, 1e-5
SCALES = np.logspace(-3, 3, 13)
EQUATIONS = ("output", "gradient by u", "gradient by W")
LAYERS = "layers=8C5S2-16C5S2-100N"


def measure(
    trial: Trial, *, rates: Sequence[float], images: int, batch: int, eps: float = EXACT, norm: str = "batch_norm"
) -> Measured:
    """The differences [scales] for each equation and ε, the accuracies [rates], and the largest rates."""
    weight, u, direction = torch.randn(16, 8, 5, 5), torch.randn(32, 8, 12, 12), torch.randn(32, 16, 8, 8)
    measured: dict[str, object] = {}
    for name, epsilon in (("without ε", eps), ("with ε", USUAL)):
        differences = [differences_at(a, weight, u, direction, epsilon) for a in SCALES]
        measured |= {f"{what}, {name}": of for what, of in zip(EQUATIONS, zip(*differences, strict=True), strict=True)}
    for name, chosen in (("batch normalization", norm), ("no normalization", "none")):
        accuracies = np.array([accuracy_at(trial, chosen, rate, images, batch) for rate in rates])
        stable = np.array([min(rates) / 2, *np.array(rates)[accuracies > 0.5]])
        measured[f"accuracy, {name}"] = accuracies
        measured[f"decade of the largest rate, {name}"] = np.log10(stable.max())
    return {**measured, "rates": rates}


def differences_at(
    a: float, weight: torch.Tensor, u: torch.Tensor, direction: torch.Tensor, eps: float
) -> tuple[float, float, float]:
    """How far BN((aW)u) is from the three equations; `direction` is the gradient of the loss by the output."""
    y, by_u, by_weight = normalized(weight, u, direction, eps)
    scaled_y, scaled_by_u, scaled_by_weight = normalized(a * weight, u, direction, eps)
    return (
        float((scaled_y - y).abs().max()),
        float((scaled_by_u - by_u).norm() / by_u.norm()),
        float((a * scaled_by_weight - by_weight).norm() / by_weight.norm()),
    )


def normalized(weight: torch.Tensor, u: torch.Tensor, direction: torch.Tensor, eps: float) -> list[torch.Tensor]:
    """BN(Wu), and the gradients by u and by W."""
    weight, u = weight.clone().requires_grad_(), u.clone().requires_grad_()
    layer: nn.Module = BatchNorm(len(weight), eps=eps)
    y = layer(F.conv2d(u, weight))
    return [y.detach(), *torch.autograd.grad(y, [u, weight], direction)]


def accuracy_at(trial: Trial, norm: str, rate: float, images: int, batch: int) -> float:
    """The accuracy on held-out images after one epoch. A run that diverged guesses: 0.1."""
    record = trial.train(
        *(f"norm={norm}", f"lr={rate}", f"train_samples={images}", "epochs=1", LAYERS, "inner_iterations=1"),
        f"batch_size={batch}",
        *("optimizer.optimizer=SGD", "optimizer.momentum=0", f"held_out={images // 2}", "valid_samples=1000", "keep=1"),
    )
    accuracy = record.metrics("accuracy.held_out").get("accuracy.held_out")
    return float(accuracy.values[-1, 0]) if accuracy is not None else 0.1


def judge(found: Found) -> list[Criterion]:
    """The largest difference over all scales for each equation, and the decades between the largest rates."""
    criteria = [below(f"{what}, difference", found[f"{what}, without ε"].max(axis=1), ROUNDING) for what in EQUATIONS]
    with_bn, without = (found[f"decade of the largest rate, {name} normalization"] for name in ("batch", "no"))
    return [*criteria, above("decades by which the largest rate is larger", with_bn - without, 0)]


def draw(found: Found) -> Figure:
    """The differences over a, and the accuracies over the learning rate."""
    figure, (left, right) = panels("Difference from the equations", "One epoch of SGD")
    for number, what in enumerate(EQUATIONS):
        curve(left, SCALES, np.maximum(found[f"{what}, without ε"], 1e-9), f"{what}, ε = 1e-20", number)
        curve(left, SCALES, np.maximum(found[f"{what}, with ε"], 1e-9), f"{what}, ε = 1e-5", number + 3)
    left.axhline(ROUNDING, color="black", linewidth=1, label="bound of the claim")
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("a, the scale of the weights")
    left.set_ylabel("difference")
    for number, name in enumerate(("batch normalization", "no normalization")):
        curve(right, found["rates"][0], found[f"accuracy, {name}"], name, number)
    right.set_xscale("log")
    right.set_xlabel("learning rate")
    right.set_ylabel("accuracy on 5,000 held-out images")
    for axes in (left, right):
        axes.legend(fontsize="small")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    seeds=8,
    size={"rates": [10 ** (half / 2) for half in range(-6, 5)], "images": 10_000, "batch": 64},
    quick={"rates": [1.0], "images": 1000, "batch": 20},
)

if __name__ == "__main__":
    main(__file__)
