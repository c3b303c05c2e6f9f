"""Claim 20: batch normalization costs robustness against noise and attacks.

Source: Galloway et al. 2019 (1905.02161), abstract: batch normalization "reduces robustness to small adversarial input
perturbations and noise by double-digit percentages", on five data sets. The noise there is Gaussian, and one of the
attacks is projected gradient descent (PGD) with a bound on the change of each pixel. A summary (davidstutz.de) objects
that the attacks, of 20 steps, are weak.

Measured: the same network with batch normalization and without, trained on MNIST with that learning rate of 0.0003,
0.001 and 0.003 that gives the best accuracy on 5,000 held-out images (Adam, constant rate). Then its accuracy on test
images (a) with Gaussian noise added to their pixels, which are from 0 to 1, and (b) after PGD with 20 steps of ε/8 in
the direction of the sign of the gradient of the loss, from a random start. Both are clipped to 0 to 1.

Refuted if: batch normalization costs less than 10 percentage points, the smallest number of two digits, under noise
with a standard deviation of 0.5 or an attack with ε = 0.1. These are usual values for MNIST, at which networks without
a defence still recognize some images; the figure has others.
"""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, above, curve, images, panels
from experiments.machinery.command import main
from labml_bn.data.mnist import ImageSet
from labml_bn.trained.weights import WEIGHTS, load_weights

NAMES = ("with batch normalization", "without")
NOISE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
EPSILONS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)

#: The noise and the attack that decide.
DECISIVE_NOISE, DECISIVE_EPSILON = 0.5, 0.1

#: Steps of the attack, and their size relative to ε.
STEPS, STEP = 20, 1 / 8


def measure(
    trial: Trial,
    *,
    layers: str,
    rates: Sequence[float],
    train_samples: int,
    epochs: int,
    tested: int,
    norms: Sequence[str],
) -> Measured:
    """The accuracies under noise and attacks of networks with each of two normalizations."""
    test = images("test", tested)
    found: dict[str, object] = {}
    for name, norm in zip(NAMES, norms, strict=True):
        words = [f"norm={norm}", f"layers={layers}", f"train_samples={train_samples}", f"epochs={epochs}"]
        network, rate = best(trial, rates, *words)
        found[f"learning rate, {name}"] = rate
        found[f"noise, {name}"] = [accuracy(network, test, sigma, 0) for sigma in NOISE]
        found[f"attack, {name}"] = [accuracy(network, test, 0, epsilon) for epsilon in EPSILONS]
    return found


def best(trial: Trial, rates: Sequence[float], *words: str) -> tuple[nn.Module, float]:
    """The network of the learning rate that is best on held-out images, and that rate."""
    runs = {rate: trial.train(*words, f"lr={rate}", "held_out=5000", "device.use_cuda=false") for rate in rates}
    scores = {rate: run.metrics("accuracy.held_out")["accuracy.held_out"].values[-1, 0] for rate, run in runs.items()}
    rate = max(scores, key=lambda rate: float(scores[rate]))
    return load_weights(runs[rate].folder / WEIGHTS).model.requires_grad_(requires_grad=False), rate


def accuracy(network: nn.Module, test: ImageSet, sigma: float, epsilon: float) -> float:
    """The accuracy, in per cent, under Gaussian noise, and then under an attack."""
    correct = 0
    for x, labels in test.batches(250):
        pixels = x * test.std + test.mean
        pixels = (pixels + sigma * torch.randn_like(pixels)).clamp(0, 1)
        attacked = attack(network, test, pixels, labels, epsilon) if epsilon else pixels
        correct += int((logits(network, test, attacked).argmax(dim=1) == labels).sum())
    return 100 * correct / len(test)


def attack(network: nn.Module, test: ImageSet, pixels: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Images of which no pixel differs by more than epsilon, and the loss is as large as PGD makes it."""
    low, high = (pixels - epsilon).clamp(0, 1), (pixels + epsilon).clamp(0, 1)
    attacked = low + (high - low) * torch.rand_like(pixels)
    for _ in range(STEPS):
        attacked.requires_grad_()
        loss = F.cross_entropy(logits(network, test, attacked), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, attacked)
        attacked = (attacked.detach() + STEP * epsilon * gradient.sign()).clamp(low, high)
    return attacked


def logits(network: nn.Module, test: ImageSet, pixels: Tensor) -> Tensor:
    """What the network says of images with pixels from 0 to 1."""
    outputs: Tensor = network((pixels - test.mean) / test.std)
    return outputs


def judge(found: Found) -> list[Criterion]:
    """Both costs have two digits."""
    decisive = {"noise": NOISE.index(DECISIVE_NOISE), "attack": EPSILONS.index(DECISIVE_EPSILON)}
    costs = {
        kind: (found[f"{kind}, {NAMES[1]}"] - found[f"{kind}, {NAMES[0]}"])[:, at] for kind, at in decisive.items()
    }
    return [
        above(f"points of accuracy lost by batch normalization, noise {DECISIVE_NOISE}", costs["noise"], 10),
        above(f"points of accuracy lost by batch normalization, attack ε = {DECISIVE_EPSILON}", costs["attack"], 10),
    ]


def draw(found: Found) -> Figure:
    """Both accuracies against the strength of the disturbance."""
    figure, every = panels("Gaussian noise", f"Attack: PGD, {STEPS} steps")
    strengths = (
        (NOISE, DECISIVE_NOISE, "standard deviation"),
        (EPSILONS, DECISIVE_EPSILON, "largest change of a pixel, ε"),
    )
    for axes, kind, (values, decisive, label) in zip(every, ("noise", "attack"), strengths, strict=True):
        for number, name in enumerate(NAMES):
            curve(axes, values, found[f"{kind}, {name}"], name, number)
        axes.axvline(decisive, color="black", linestyle=":", label="decides")
        axes.set_xlabel(f"{label} (pixels are 0 to 1)")
        axes.set_ylabel("test accuracy in %")
        axes.set_ylim(0, 101)
        axes.legend(fontsize="small")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    size={
        "layers": "20C5-P2-50C5-P2-500N",
        "rates": [0.0003, 0.001, 0.003],
        "train_samples": 20_000,
        "epochs": 4,
        "tested": 1000,
        "norms": ["batch_norm", "none"],
    },
    quick={"rates": [0.001], "train_samples": 3000, "epochs": 3, "tested": 200},
)

if __name__ == "__main__":
    main(__file__)
