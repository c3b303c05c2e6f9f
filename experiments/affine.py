"""Claim 16: training nothing but γ and β of a random network gets far, by turning features off.

Source: Frankle et al. 2020, "Training BatchNorm and Only BatchNorm", arXiv 2003.00152, from its abstract: deep ResNets
reach 82 % on CIFAR-10, far more than by training as many randomly chosen parameters elsewhere in the network, and about
a third of the random features is disabled. The bound of 0.01 below which a feature counts as disabled, and γ from 0 to
1 at the beginning, are as summarised by this project.

Here the task is easier, MNIST, and the network smaller, so "far" is what the paper compares with.

Measured: a residual network of which all weights, also those of the last layer, stay random, and of which are trained
(a) γ and β of every normalization, or (b) as many of the other parameters, chosen at random, or (c) everything. The
accuracy on the test images after training by Adam at the best of four learning rates, chosen on held-out training
images; and the share of features with |γ| < 0.01, before and after (a).

Refuted if: (a) makes more than half as many errors as (b); or the share of disabled features after (a) is not from 0.2
to 0.5, "around a third".
"""

import copy
import itertools
from collections.abc import Iterable

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, bars, below, images, panels, within
from experiments.machinery.command import main
from labml_bn import BatchNorm
from labml_bn.data.mnist import ImageSet

#: A feature with a smaller |γ| counts as disabled.
DISABLED = 0.01

RATES = (0.003, 0.01, 0.03, 0.1)

AFFINE, ELSEWHERE, ALL = "only γ and β", "as many others", "everything"


class Block(nn.Module):
    """A residual block with normalization before each ReLU (He et al. 2016); its first convolution has a stride."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = BatchNorm(inputs, activation="relu")
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.norm2 = BatchNorm(channels, activation="relu")
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(inputs, channels, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The input, plus what the convolutions make of it."""
        output: Tensor = self.skip(x) + self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return output


def random_network(channels: int, blocks: int) -> nn.Sequential:
    """A network of three stages with `blocks` blocks each, its γ uniform in [0, 1]."""
    widths = [channels, channels, 2 * channels, 4 * channels]
    stages = [
        Block(inputs if block == 0 else outputs, outputs, 2 if block == 0 else 1)
        for inputs, outputs in itertools.pairwise(widths)
        for block in range(blocks)
    ]
    last = [BatchNorm(widths[-1], activation="relu"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)]
    network = nn.Sequential(nn.Conv2d(1, channels, 3, 2, padding=1, bias=False), *stages, *last)
    for layer in network.modules():
        if isinstance(layer, BatchNorm):
            nn.init.uniform_(layer.weight)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return network


def measure(
    trial: Trial, *, channels: int, blocks: int, samples: int, epochs: int, evaluated: int, trained: str = AFFINE
) -> Measured:
    """The test accuracies, and the shares of disabled features. `trained` is what is trained as (a)."""
    train = images("train", samples, held_out=5000, seed=trial.seed)
    held_out = images("held_out", evaluated, held_out=5000, seed=trial.seed)
    test = images("test", 2 * evaluated)
    network = random_network(channels, blocks)
    measured: dict[str, float] = {"disabled: before": disabled(network)}
    for name, what in {AFFINE: trained, ELSEWHERE: ELSEWHERE, ALL: ALL}.items():
        runs = [train_only(what, network, train, rate, epochs, trial.seed) for rate in RATES]
        best = max(runs, key=lambda run: accuracy(run, held_out))
        measured[f"accuracy: {name}"] = accuracy(best, test)
        if name == AFFINE:
            measured["disabled: after"] = disabled(best)
    return measured


def train_only(what: str, network: nn.Module, train: ImageSet, rate: float, epochs: int, seed: int) -> nn.Module:
    """A copy of the network of which only a part of the parameters was trained: the others are put back each step."""
    network = copy.deepcopy(network)
    parameters = list(network.parameters())
    masks = trainable(what, network, seed)
    untouched = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.Adam(parameters, rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        for pixels, labels in train.shuffled(128, seed, epoch):
            optimizer.zero_grad()
            F.cross_entropy(network(pixels), labels).backward()
            optimizer.step()
            with torch.no_grad():
                for parameter, mask, old in zip(parameters, masks, untouched, strict=True):
                    parameter.copy_(torch.where(mask, parameter, old))
        schedule.step()
    return network


def trainable(what: str, network: nn.Module, seed: int) -> list[Tensor]:
    """Which entries of each parameter are trained."""
    parameters = list(network.parameters())
    affine = {id(parameter) for layer in norms(network) for parameter in layer.parameters()}
    masks = [torch.full_like(each, what == ALL or id(each) in affine, dtype=torch.bool) for each in parameters]
    if what == ELSEWHERE:
        others = [~mask for mask in masks]
        flat = torch.cat([mask.flatten() for mask in others])
        places, count = flat.nonzero().squeeze(1), int((~flat).sum())
        chosen = torch.zeros_like(flat)
        chosen[places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:count]]] = True
        parts = chosen.split([mask.numel() for mask in masks])
        masks = [part.view_as(mask) for part, mask in zip(parts, masks, strict=True)]
    return masks


def norms(network: nn.Module) -> Iterable[BatchNorm]:
    """The normalizations of a network."""
    return (layer for layer in network.modules() if isinstance(layer, BatchNorm))


def disabled(network: nn.Module) -> float:
    """The share of features with a γ near 0."""
    return float((torch.cat([layer.weight.detach() for layer in norms(network)]).abs() < DISABLED).float().mean())


@torch.no_grad()
def accuracy(network: nn.Module, each: ImageSet) -> float:
    """The share of the images that are right, in evaluation."""
    network.eval()
    right = sum(int((network(pixels).argmax(1) == labels).sum()) for pixels, labels in each.batches(1000))
    network.train()
    return right / len(each)


def judge(found: Found) -> list[Criterion]:
    """Half the errors of as many other parameters, and a third of the features turned off."""
    errors = {name: 1 - found[f"accuracy: {name}"] for name in (AFFINE, ELSEWHERE)}
    return [
        below("errors, relative to as many other parameters", errors[AFFINE] / errors[ELSEWHERE], 0.5),
        within("share of features disabled", found["disabled: after"], 0.2, 0.5),
    ]


def draw(found: Found) -> Figure:
    """The errors by what is trained, and the shares of disabled features."""
    figure, (errors, features) = panels("Errors of the random network, by what is trained", "Features with |γ| < 0.01")
    bars(errors, {name: 100 * (1 - found[f"accuracy: {name}"]) for name in (AFFINE, ELSEWHERE, ALL)})
    errors.set_ylim(bottom=0)
    errors.set_ylabel("% of the test images wrong")
    bars(features, {f"{when} training\nγ and β": 100 * found[f"disabled: {when}"] for when in ("before", "after")})
    claimed = features.axhspan(20, 50, color="black", alpha=0.1, label="claimed after training")
    features.set_ylabel("% of the features")
    features.set_ylim(bottom=0)
    features.legend(handles=[claimed], loc="upper left", fontsize="small")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    seeds=4,
    size={"channels": 16, "blocks": 3, "samples": 10_000, "epochs": 8, "evaluated": 5000},
    quick={"channels": 4, "blocks": 1, "samples": 500, "epochs": 1, "evaluated": 250},
    full={"samples": 55_000, "epochs": 20},
)

if __name__ == "__main__":
    main(__file__)
