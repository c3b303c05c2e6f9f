"""Claim 5: whitening decorrelates and trains in fewer steps than batch normalization, at a cost that grows faster.

Source: Ioffe & Szegedy 2015, §2 and §3: networks converge faster if their inputs are whitened; whitening each layer is
expensive, so each feature is normalized independently. Huang et al. 2018, "Decorrelated Batch Normalization", arXiv
1804.08450, and Huang et al. 2019, "Iterative Normalization", arXiv 1904.03441, from their abstracts.

Measured: batch normalization, and whitening (`labml_bn/norm/whitening.py`) by the eigendecomposition and by 5 of
Newton's iterations, of all channels and in groups of 16. (a) The mean absolute correlation between the channels of the
output of a random linear layer on MNIST. (b) The time of a forward and a backward pass over 1,024 values of 16 to 512
channels. (c) The steps of SGD until a network with two normalized layers has 97 % of the test images right, evaluated
every 10 steps, at the best of five learning rates: that with the fewest steps to 97 % on held-out training images. A
network that has not got there after 1,000 steps counts with these.

Refuted if: relative to batch normalization, for the eigendecomposition of all channels, (a) more than a tenth of the
correlation is left; (b) the time is less than twice at the most channels, or has not doubled from the fewest to the
most; or (c) it takes as many steps or more.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.laboratory import (
    Criterion,
    Experiment,
    Found,
    Measured,
    Trial,
    above,
    bars,
    below,
    curve,
    images,
    panels,
)
from experiments.machinery.command import main
from labml_bn import BatchNorm
from labml_bn.data.mnist import ImageSet
from labml_bn.norm.whitening import Whitening

Norm = Callable[[int], nn.Module]

#: The normalizations, by name. The first is what the others are compared with, the second what the claim is about.
NORMS: dict[str, Norm] = {
    "BN": BatchNorm,
    "ZCA": Whitening,
    "ZCA / 16": lambda channels: Whitening(channels, groups=channels // 16),
    "Newton": lambda channels: Whitening(channels, iterations=5),
    "Newton / 16": lambda channels: Whitening(channels, groups=channels // 16, iterations=5),
}

#: The numbers of channels of which the time is taken, and the learning rates of the search.
CHANNELS = (16, 32, 64, 128, 256, 512)
RATES = (0.03, 0.1, 0.3, 1.0, 3.0)

#: The steps between two evaluations.
EVERY = 10


def measure(
    trial: Trial,
    *,
    width: int,
    batch: int,
    steps: int,
    target: float,
    evaluated: int,
    repeats: int,
    whitening: Norm = Whitening,
) -> Measured:
    """The correlation, the times and the steps of each normalization."""
    train = images("train", 60_000, held_out=5000, seed=trial.seed)
    held_out = images("held_out", evaluated, held_out=5000, seed=trial.seed)
    sets = [held_out, images("test", 2 * evaluated)]
    measured: dict[str, Any] = {}
    for name, norm in (NORMS | {"ZCA": whitening}).items():
        runs = [steps_to(norm, rate, train, sets, trial.seed, width, batch, steps, target) for rate in RATES]
        measured[f"correlation: {name}"] = correlation(norm(width), width, train, trial.seed)
        measured[f"seconds: {name}"] = [seconds(norm(channels), channels, repeats) for channels in CHANNELS]
        measured[f"steps: {name}"] = min(runs, key=lambda run: run[0])[1]
    return measured


def correlation(norm: nn.Module, width: int, train: ImageSet, seed: int) -> float:
    """The mean absolute correlation between two channels of the normalized output of a random linear layer."""
    torch.manual_seed(seed)
    pixels, _ = train.batch(slice(1024))
    layer = nn.Linear(784, width)
    correlations = torch.corrcoef(norm(layer(pixels.flatten(1))).detach().T)
    return float(correlations[~torch.eye(len(correlations), dtype=torch.bool)].abs().mean())


def seconds(norm: nn.Module, channels: int, repeats: int) -> float:
    """The median time of a forward and a backward pass over 1,024 random values of each channel."""
    x = torch.randn(1024, channels, requires_grad=True)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        norm(x).sum().backward()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def steps_to(
    norm: Norm, rate: float, train: ImageSet, sets: list[ImageSet], seed: int, width: int, batch: int, steps: int,
    target: float,
) -> list[int]:  # fmt: skip
    """For each set of images, the steps until the share `target` of it is right, at most `steps`."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, width, bias=False), norm(width), nn.ReLU()),
        *(nn.Linear(width, width, bias=False), norm(width), nn.ReLU(), nn.Linear(width, 10)),
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    reached = [steps] * len(sets)
    for step, (pixels, labels) in zip(range(1, steps + 1), batches(train, batch, seed), strict=False):
        optimizer.zero_grad()
        F.cross_entropy(network.train()(pixels), labels).backward()
        optimizer.step()
        if step % EVERY == 0:
            right = [accuracy(network, each) >= target for each in sets]
            reached = [min(before, step) if now else before for before, now in zip(reached, right, strict=True)]
            if max(reached) < steps:
                break
    return reached


def batches(train: ImageSet, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of as many epochs as are asked for."""
    epoch = 0
    while True:
        yield from train.shuffled(batch, seed, epoch)
        epoch += 1


@torch.no_grad()
def accuracy(network: nn.Module, each: ImageSet) -> float:
    """The share of the images that are right, in evaluation."""
    pixels, labels = each.batch(slice(None))
    return float((network.eval()(pixels).argmax(1) == labels).float().mean())


def judge(found: Found) -> list[Criterion]:
    """Whitening against batch normalization: less correlation, a cost that grows faster, fewer steps."""
    doublings = np.log2(found["seconds: ZCA"] / found["seconds: BN"])
    return [
        below("correlation, relative to BN", found["correlation: ZCA"] / found["correlation: BN"], 0.1),
        above(f"log₂ of the time at {CHANNELS[-1]} channels, relative to BN", doublings[:, -1], 1),
        above(f"its growth from {CHANNELS[0]} channels", doublings[:, -1] - doublings[:, 0], 1),
        below("steps, relative to BN", found["steps: ZCA"] / found["steps: BN"], 1),
    ]


def draw(found: Found) -> Figure:
    """The three measurements of every normalization."""
    figure, (left, middle, right) = panels(
        "Correlation between channels", "Time of the layer, forward and backward", "Steps"
    )
    bars(left, {name.replace(" / ", "\n/ "): found[f"correlation: {name}"] for name in NORMS})
    left.set_ylabel("mean absolute correlation")
    left.set_xlabel("/ 16: in groups of 16 channels")
    for number, name in enumerate(NORMS):
        curve(middle, CHANNELS, found[f"seconds: {name}"] * 1000, name, number)
    middle.set_xscale("log", base=2)
    middle.set_yscale("log")
    middle.set_xlabel("channels")
    middle.set_ylabel("milliseconds")
    middle.legend(fontsize="small")
    bars(right, {name.replace(" / ", "\n/ "): found[f"steps: {name}"] for name in NORMS})
    right.set_ylabel("steps to the accuracy on the test images")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    seeds=8,
    size={"width": 128, "batch": 256, "steps": 1000, "target": 0.97, "evaluated": 5000, "repeats": 20},
    quick={"width": 32, "steps": 20, "target": 0.8, "evaluated": 500, "repeats": 1},
)

if __name__ == "__main__":
    main(__file__)
