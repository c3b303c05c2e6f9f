"""Claim 10: batch normalization helps because the loss gets smoother, and not because distributions shift less.

Source: Santurkar et al. 2018, arXiv 1805.11604, by its abstract and by quotations (the paper itself could not be read).
Noise with a mean and a variance that change at every step, after each normalization, makes distributions less stable
than even without normalization; yet the difference in training to batch normalization is almost none, and both train
better than without. With batch normalization the loss and its gradient change less along the direction of the gradient.

Measured: networks for MNIST with ten hidden layers of 100 ReLUs: without normalization, with batch normalization, and
with noise after it. The noise multiplies each value by about 1 to 1.25 and adds about −0.5 to 0.5, drawn for each unit
and step, and around these, by 0.1, for each image. All train with the rate that is best for the network without
normalization, of those listed, by its accuracy on 5,000 held-out training images. (a) The training accuracy in each of
twenty parts of the training. (b) The shift: how far a step moves the mean over 500 images of the input of a ReLU,
relative to its standard deviation. (c) Along the gradient of a batch, at a half to four times the step: the range of
the loss, the largest difference between the gradient there and here, and the same relative to the distance (the
"effective" smoothness); each at the end of a part, with batch normalization relative to without.

Refuted if: with noise the shift is not more than without normalization, or the training accuracy in the last part is a
point or more lower than without noise, or not higher than without normalization; or if one of the three in (c) is not
less with batch normalization (geometric mean over the training).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, above, below, curve, images, panels
from experiments.machinery.command import main
from labml_bn import BatchNorm
from labml_bn.data.mnist import ImageSet

UNITS, LAYERS, BATCH, PARTS = 100, 10, 128, 20
DISTANCES = (0.5, 1.0, 2.0, 4.0)
KINDS = {"none": "no normalization", "BN": "batch normalization", "noise": "with noise after it"}
SMOOTHNESS = ("range of the loss", "change of the gradient", "change of the gradient / distance")


class Noise(nn.Module):
    """Values [n, units], each multiplied and shifted, by random numbers whose distribution is another at each call."""

    def forward(self, x: Tensor) -> Tensor:
        """The values with noise."""
        scale, shift = 1 + torch.rand(x.shape[1]) / 4, torch.rand(x.shape[1]) - 0.5
        return x * (scale + 0.1 * torch.randn_like(x)) + shift + 0.1 * torch.randn_like(x)


class Network(nn.Module):
    """Ten hidden layers; what comes after each linear one is made by `after`."""

    def __init__(self, after: Callable[[], nn.Module]) -> None:
        super().__init__()
        widths = [784, *[UNITS] * LAYERS]
        linear = [nn.Linear(width, UNITS) for width in widths[:-1]]
        for layer in linear:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.linear, self.after = nn.ModuleList(linear), nn.ModuleList(after() for _ in linear)
        self.last = nn.Linear(UNITS, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and the inputs of the ReLUs."""
        x, inputs = x.flatten(1), []
        for linear, after in zip(self.linear, self.after, strict=True):
            inputs.append(after(linear(x)))
            x = inputs[-1].relu()
        return self.last(x), inputs


def measure(
    trial: Trial,
    *,
    steps: int,
    rates: Sequence[float],
    norm: Callable[[int], nn.Module] = BatchNorm,
    noise: Callable[[], nn.Module] = Noise,
) -> Measured:
    """For each network the accuracies and shifts [PARTS], and three measures of smoothness [PARTS, 3]."""
    data = images("train", 55000, held_out=5000, seed=trial.seed)
    held_out = images("held_out", 5000, held_out=5000, seed=trial.seed)
    searched = [train(trial.seed, nn.Identity, data, held_out, steps, rate) for rate in rates]
    best = int(np.argmax([of_rate["held out"] for of_rate in searched]))
    networks = {"none": searched[best]}
    after: dict[str, Callable[[], nn.Module]] = {
        "BN": lambda: norm(UNITS),
        "noise": lambda: nn.Sequential(norm(UNITS), noise()),
    }
    for kind, make in after.items():
        networks[kind] = train(trial.seed, make, data, held_out, steps, rates[best])
    measured: dict[str, object] = {"rate": rates[best], "steps": (np.arange(PARTS) + 1) * (steps // PARTS)}
    for kind, found in networks.items():
        measured |= {f"{kind}: {what}": values for what, values in found.items()}
    return measured


def train(
    seed: int, after: Callable[[], nn.Module], data: ImageSet, held_out: ImageSet, steps: int, rate: float
) -> dict[str, NDArray[np.float64]]:
    """Train a network with SGD, and measure it at the end of each part."""
    torch.manual_seed(seed)
    model, order = Network(after), torch.Generator().manual_seed(seed)  # all networks get the same batches
    parameters = list(model.parameters())
    probe = data.batch(slice(500))[0]
    accuracies, shifts, smoothness = [], [], []
    for step in range(1, steps + 1):
        x, labels = data.batch(torch.randint(len(data), (BATCH,), generator=order))
        loss, gradients, right = backward(model, x, labels)
        ends = step % (steps // PARTS) == 0
        if ends:
            smoothness.append(along(model, x, labels, loss, gradients, rate))
            before = moments(model, probe)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(rate * gradient)
        accuracies.append(right)
        if ends:
            (mean, spread), (old, _) = moments(model, probe), before
            shifts.append(float(((mean - old).abs() / (spread + 1e-6)).mean()))
    model.eval()
    with torch.no_grad():
        pixels, labels = held_out.batch(slice(None))
        right = float((model(pixels)[0].argmax(1) == labels).double().mean())
    parts = np.array(accuracies).reshape(PARTS, -1).mean(axis=1)
    return {
        "accuracy": parts,
        "shift": np.array(shifts),
        "smoothness": np.array(smoothness),
        "held out": np.array(right),
    }


def backward(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[float, tuple[Tensor, ...], float]:
    """The loss of a batch, its gradients, and the accuracy."""
    logits, _ = model(x)
    loss = cross_entropy(logits, labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return float(loss.detach()), gradients, float((logits.argmax(1) == labels).double().mean())


def along(
    model: nn.Module, x: Tensor, labels: Tensor, loss: float, gradients: Sequence[Tensor], rate: float
) -> list[float]:
    """The three measures of `SMOOTHNESS` along the gradient of a batch. The parameters stay as they are."""
    saved = [parameter.detach().clone() for parameter in model.parameters()]
    losses, changes, relative = [loss], [], []
    for distance in DISTANCES:
        move(model, [old - distance * rate * gradient for old, gradient in zip(saved, gradients, strict=True)])
        there, others, _ = backward(model, x, labels)
        losses.append(there)
        changes.append(norm_of([other - gradient for other, gradient in zip(others, gradients, strict=True)]))
        relative.append(changes[-1] / (distance * rate * norm_of(gradients)))
    move(model, saved)
    return [max(losses) - min(losses), max(changes), max(relative)]


@torch.no_grad()
def move(model: nn.Module, values: Sequence[Tensor]) -> None:
    """Give the parameters these values."""
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.copy_(value)


def norm_of(tensors: Sequence[Tensor]) -> float:
    """The norm of all of them together."""
    return float(torch.stack([tensor.norm() for tensor in tensors]).norm())


@torch.no_grad()
def moments(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The means and standard deviations of the inputs of all ReLUs, [LAYERS, UNITS]."""
    inputs = torch.stack(model(x)[1])
    return inputs.mean(dim=1), inputs.std(dim=1)


def judge(found: Found) -> list[Criterion]:
    """Noise shifts more and costs nothing; with batch normalization all three measures of smoothness are less."""
    last = {kind: found[f"{kind}: accuracy"][:, -1] for kind in KINDS}
    shift = {kind: np.log10(found[f"{kind}: shift"]).mean(axis=1) for kind in KINDS}
    smoothness = (np.log10(found["BN: smoothness"]) - np.log10(found["none: smoothness"])).mean(axis=1)
    return [
        above("log10 of the shift, noise / no normalization", shift["noise"] - shift["none"], 0),
        above("training accuracy at the end, noise − no noise", last["noise"] - last["BN"], -0.01),
        above("training accuracy at the end, noise − no normalization", last["noise"] - last["none"], 0),
        *(
            below(f"log10 of {what}, BN / no normalization", smoothness[:, number], 0)
            for number, what in enumerate(SMOOTHNESS)
        ),
    ]


def draw(found: Found) -> Figure:
    """Accuracies, shifts, and the measures of smoothness relative to the network without normalization."""
    figure, axes = panels("(a) Training accuracy", "(b) Shift by a step", "(c) Smoothness with BN", columns=3)
    steps = found["steps"][0]
    for number, (kind, label) in enumerate(KINDS.items()):
        curve(axes[0], steps, found[f"{kind}: accuracy"], label, number)
        curve(axes[1], steps, found[f"{kind}: shift"], label, number)
    for number, what in enumerate(SMOOTHNESS):
        ratios = found["BN: smoothness"][:, :, number] / found["none: smoothness"][:, :, number]
        curve(axes[2], steps, ratios, what, number + len(KINDS))
    axes[2].axhline(1, color="black", linestyle=":")
    axes[0].set(ylabel="accuracy", ylim=(None, 1))
    axes[1].set(yscale="log", ylabel="change of a mean / its spread")
    axes[2].set(yscale="log", ylabel="relative to no normalization")
    for each in axes:
        each.set_xlabel("steps")
        each.legend(fontsize="small")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    seeds=8,
    size={"steps": 4000, "rates": [0.01, 0.03, 0.1, 0.3]},
    quick={"steps": 60, "rates": [0.03]},
)

if __name__ == "__main__":
    main(__file__)
