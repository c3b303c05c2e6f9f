"""Claim 19: in a batch of two, batch normalization tells of one image what the other looks like.

Source: perschi.github.io 2021, "Information leakage in batch normalization". A network that is trained to draw for each
image of a batch of two the other one succeeds with the statistics of the batch (mean squared error 0.019 on MNIST's
test images) and fails with running statistics (0.098). The network there is a convolutional autoencoder.

A batch of two has the mean (u₁ + u₂)/2 and the standard deviation |δ| with δ = (u₁ - u₂)/2. So the first output is
y₁ = δ/√(δ² + ε): almost the sign of δ, but ε lets its size through, δ = y₁√ε/√(1 - y₁²). A linear layer Wx before the
normalization, with more channels than pixels, then gives x₁ - x₂ as the solution of W(x₁ - x₂) = 2δ.

Measured: the share of the variance of the other image, around the mean image, that is explained by what is drawn from
the output for the first one. (a) Solved: from the known weights and the first image, without training. (b) Trained: a
network (linear, normalization, linear, ReLU, linear) is trained to draw the other image, and must draw those of new
pairs. (c) The same network, but normalizing with the statistics of all test images. (d) One without normalization.

Refuted if: (a) explains less than 0.9, so that one would not recognize the image, or (b) less than half. The two images
are independent, so without a leak nothing is better than the mean image, which explains 0; (c) and (d), where the claim
says that there is none, must stay below 0.05.
"""

import math
import textwrap
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, above, bars, below, images, panels
from experiments.machinery.command import main
from labml_bn import BatchNorm

SOLVED, TRAINED = "solved", "trained"
POPULATION, WITHOUT = "trained, but statistics of all images", "trained without normalization"

#: Of so many pairs the pictures are kept.
SHOWN = 3


class OfPairs(nn.Module):
    """Batch normalization of a stack of pairs [2n, channels], each a batch of two; in evaluation, all are one batch."""

    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, u: Tensor) -> Tensor:
        """The normalized values. Every channel of every pair is a channel of the layer."""
        batches = u.view(-1, 2, self.channels).transpose(0, 1).flatten(1) if self.training else u
        norm = BatchNorm(batches.shape[1], self.eps, affine=False, track_running_stats=False)
        y: Tensor = norm(batches)
        return y.view(2, -1, self.channels).transpose(0, 1).reshape(u.shape) if self.training else y


def other(x: Tensor) -> Tensor:
    """For each image of a stack of pairs [2n, ...], the other one of its pair."""
    return x.view(-1, 2, *x.shape[1:]).flip(1).reshape(x.shape)


def measure(
    trial: Trial, *, width: int, steps: int, samples: int, norm: Callable[[int], nn.Module] = OfPairs
) -> Measured:
    """The explained shares (a) to (d), and pictures of some pairs."""
    train, test = (images(part, samples).batch(slice(None))[0].flatten(1) for part in ("train", "test"))
    test = test[: len(test) // 2 * 2]
    mean = train.mean(dim=0)

    def explained(drawn: Tensor) -> float:
        return 1 - float((drawn - other(test)).square().mean() / (test - mean).square().mean())

    with torch.no_grad():
        solution = solved(test, norm)
    network = trained(train, norm, width, steps)
    control = trained(train, lambda width: nn.Identity(), width, steps)
    with torch.no_grad():
        drawn = network(test)
        found = {SOLVED: explained(solution), TRAINED: explained(drawn)}
        found |= {POPULATION: explained(network.eval()(test)), WITHOUT: explained(control(test))}
    shown = [each[: 2 * SHOWN : 2] for each in (test, other(test), solution, drawn)]
    return {**found, "pictures": np.array([pixels(each) for each in shown])}


def solved(x: Tensor, norm: Callable[[int], nn.Module]) -> Tensor:
    """For each image of pairs [2n, pixels], the other one, from the image, its output, and the layers' weights."""
    channels = 2 * x.shape[1]
    layer = nn.Linear(x.shape[1], channels, bias=False)
    normalization = norm(channels)
    eps: float = getattr(normalization, "eps", 1e-5)
    y = normalization(layer(x)).double().clamp(-1 + 1e-7, 1 - 1e-7)
    half_difference = y * math.sqrt(eps) / (1 - y * y).sqrt()
    difference: Tensor = 2 * half_difference @ torch.linalg.pinv(layer.weight.double()).T
    return x - difference.float()


def trained(x: Tensor, norm: Callable[[int], nn.Module], width: int, steps: int) -> nn.Module:
    """A network that is trained on pairs of the images [n, pixels] to draw the other one from the normalized values."""
    encoder = nn.Sequential(nn.Linear(x.shape[1], width), norm(width))
    decoder = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, x.shape[1]))
    network = nn.Sequential(encoder, decoder)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(steps):
        batch = x[torch.randint(len(x), (128,))]
        optimizer.zero_grad()
        F.mse_loss(network(batch), other(batch)).backward()
        optimizer.step()
    return network


def pixels(x: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Normalized images [n, pixels] as grey values, [n, 28, 28]."""
    grey = (x.view(-1, 28, 28) * 0.3081 + 0.1307).clamp(0, 1) * 255
    return grey.round().to(torch.uint8).numpy()


def judge(found: Found) -> list[Criterion]:
    """The image is there with the statistics of the batch, and not without them."""
    return [
        above(f"share explained: {SOLVED}", found[SOLVED], 0.9),
        above(f"share explained: {TRAINED}", found[TRAINED], 0.5),
        below(f"share explained: {POPULATION}", found[POPULATION], 0.05),
        below(f"share explained: {WITHOUT}", found[WITHOUT], 0.05),
    ]


def draw(found: Found) -> Figure:
    """Some pairs of the first seed with what was drawn, and the explained shares."""
    figure, (left, right) = panels("The other image of a batch of two (first seed)", "How much of it is explained")
    rows = found["pictures"][0]
    left.imshow(255 - np.block([list(row) for row in rows]), cmap="gray", vmin=0, vmax=255)
    left.set_yticks(14 + 28 * np.arange(4), ["this image", "the other", "solved", "trained"])
    left.set_xticks([])
    left.grid(visible=False)
    bars(right, {textwrap.fill(name, 18): found[name] for name in (SOLVED, TRAINED, POPULATION, WITHOUT)})
    right.axhline(0, color="black", linestyle="--")
    right.set_ylabel("explained share of the variance\naround the mean image")
    right.tick_params(axis="x", labelsize="small")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    size={"width": 1024, "steps": 2000, "samples": 60_000},
    quick={"width": 512, "steps": 500, "samples": 4000},
)

if __name__ == "__main__":
    main(__file__)
