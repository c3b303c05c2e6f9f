"""Claim 1: batch normalization keeps the inputs of layers from shifting, and trains faster, to a higher accuracy.

Source: Ioffe & Szegedy 2015, §4.1 and Figure 1. Binary images of MNIST, three fully connected hidden layers of 100
sigmoids, small random Gaussian weights, cross-entropy, 50,000 steps with batches of 60. "The batch-normalized network
enjoys the higher test accuracy", and the distributions of a sigmoid's inputs are "much more stable as training
progresses", while those of the original network "change significantly over time, both in their mean and the variance".

Measured: the same, with weights of standard deviation 0.1 and plain SGD, of which the paper says nothing. The rate of
each network is, of five from 0.1 to 10, that with the highest accuracy on 5,000 held-out training images (mean of the
second half of a search of a fifth of the steps); both train on the other images. (a) The test accuracy after each
epoch. (b, c) The 15th, 50th and 85th percentile of the input of a sigmoid of the last hidden layer, over the
mini-batches of a fiftieth of the training. The figure shows the first sigmoid, for the first seed; the shift is how far
a percentile moves, from its least to its greatest, averaged over the three and over all 100 sigmoids.

Refuted if: at the end (mean of the last tenth) the accuracy is not higher with batch normalization; it takes more than
half the steps to get where the other network ends; or the shift is more than half of the other's ("much more stable").
Also shown, and not judged: the shift relative to the mean distance between the 15th and the 85th percentile.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor, nn

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, above, below, curve, panels
from experiments.machinery.command import main
from labml_bn import BatchNorm
from labml_bn.records.record import Record

UNITS, BATCH, WINDOWS = 100, 60, 50

#: Half of the largest value of a pixel, as the images are normalized.
HALF = (0.5 - 0.1307) / 0.3081

KINDS = {"none": "no normalization", "BN": "batch normalization"}


class Binary(nn.Module):
    """Images [n, 1, 28, 28] as vectors [n, 784] of 0 and 1."""

    def forward(self, x: Tensor) -> Tensor:
        """1 where a pixel is more than half of the largest value."""
        return (x.flatten(1) > HALF).to(x.dtype)


class Percentiles(nn.Module):
    """Passes on its input, [n, UNITS]. In training it adds up, in every other step, each unit's percentiles."""

    sums: Tensor
    counts: Tensor
    step: Tensor
    levels: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("sums", torch.zeros(WINDOWS, 3, UNITS))
        self.register_buffer("counts", torch.zeros(WINDOWS))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("levels", torch.tensor([0.15, 0.5, 0.85]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The input."""
        if self.training:
            if self.step % 2 == 0:
                window = torch.clamp(self.step * WINDOWS // self.steps, max=WINDOWS - 1)
                self.sums[window] += torch.quantile(x.detach(), self.levels, dim=0)
                self.counts[window] += 1
            self.step += 1
        return x


def measure(
    trial: Trial,
    *,
    train_images: int,
    held_out: int,
    test_images: int,
    epochs: int,
    rates: Sequence[float],
    norm: Callable[[int], nn.Module] = BatchNorm,
) -> Measured:
    """For both networks the rate, the accuracies [epochs], the percentiles [WINDOWS, 3] of a unit, and the shift."""
    steps = epochs * -(-train_images // BATCH)
    measured: dict[str, object] = {"steps": np.arange(1, epochs + 1) * steps / epochs}
    for kind in KINDS:

        def make(chosen: Callable[[int], nn.Module] = norm if kind == "BN" else nn.Identity) -> nn.Sequential:
            return network(chosen, steps)

        def train(rate: float, epochs: int, kind: str = kind, make: Callable[[], nn.Sequential] = make) -> Record:
            words = [f"lr={rate}", "optimizer.optimizer=SGD", "optimizer.momentum=0", f"batch_size={BATCH}"]
            words += [f"train_samples={train_images}", f"held_out={held_out}", f"epochs={epochs}", "inner_iterations=1"]
            words += [f"valid_samples={test_images}", "keep=1"]
            return trial.train(*words, f"network=shift-{kind}", model=make)

        rate = rates[0]
        if len(rates) > 1:
            searched = [accuracies(train(each, max(1, epochs // 5)), "held_out") for each in rates]
            rate = rates[int(np.argmax([np.mean(each[len(each) // 2 :]) for each in searched]))]
        record = train(rate, epochs)
        state = load_file(record.folder / "model.safetensors")
        sums, counts = (next(value for key, value in state.items() if key.endswith(end)) for end in ("sums", "counts"))
        percentiles = sums / counts[:, None, None]
        moved = percentiles.amax(dim=0) - percentiles.amin(dim=0)
        measured |= {
            f"{kind}: rate": rate,
            f"{kind}: accuracy": accuracies(record, "test"),
            f"{kind}: percentiles": percentiles[:, :, 0],
            f"{kind}: shift": moved.mean(),
            f"{kind}: relative shift": moved.mean() / (percentiles[:, 2] - percentiles[:, 0]).mean(),
        }
    return measured


def network(norm: Callable[[int], nn.Module], steps: int) -> nn.Sequential:
    """The network, with a normalization before each sigmoid, and the percentiles before the last."""
    layers: list[nn.Module] = [Binary()]
    for width in (784, UNITS, UNITS):
        layers += [nn.Linear(width, UNITS), norm(UNITS), nn.Sigmoid()]
    layers.insert(-1, Percentiles(steps))
    model = nn.Sequential(*layers, nn.Linear(UNITS, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.1)
            nn.init.zeros_(layer.bias)
    return model


def accuracies(record: Record, split: str) -> Sequence[float]:
    """The accuracies after each epoch; a guess if the run diverged."""
    found = record.metrics(f"accuracy.{split}").get(f"accuracy.{split}")
    return [0.1] if found is None else list(found.values[:, 0])


def judge(found: Found) -> list[Criterion]:
    """More accurate at the end, at the other's accuracy in half the steps, and half the shift."""
    plain, normalized = found["none: accuracy"], found["BN: accuracy"]
    last = max(1, plain.shape[1] // 10)
    end = plain[:, -last:].mean(axis=1)
    reached = normalized >= end[:, None]
    time = np.where(reached.any(axis=1), (reached.argmax(axis=1) + 1) / plain.shape[1], 1.0)
    return [
        above("accuracy at the end, BN − none", normalized[:, -last:].mean(axis=1) - end, 0),
        below("share of the steps in which BN gets where none ends", time, 0.5),
        below("shift of a sigmoid's inputs, BN / none", found["BN: shift"] / found["none: shift"], 0.5),
    ]


def draw(found: Found) -> Figure:
    """The paper's Figure 1, with the percentiles of the first seed."""
    titles = [f"({panel}) Input of a sigmoid: {label}" for panel, label in zip("bc", KINDS.values(), strict=True)]
    figure, axes = panels("(a) Accuracy on the test images", *titles, columns=3)
    steps = found["steps"][0]
    middles = (np.arange(WINDOWS) + 0.5) * steps[-1] / WINDOWS
    for number, (kind, label) in enumerate(KINDS.items()):
        rates = ", ".join(f"{each:g}" for each in np.unique(found[f"{kind}: rate"]))
        curve(axes[0], steps, found[f"{kind}: accuracy"], f"{label}, rate {rates}", number)
        for level, name in enumerate(("15th", "50th", "85th percentile")):
            axes[number + 1].plot(middles, found[f"{kind}: percentiles"][0, :, level], label=name)
        shift, relative = (found[f"{kind}: {what}"].mean() for what in ("shift", "relative shift"))
        shifts = f"steps\nshift: {shift:.3g}, {relative:.2g} × distance from 15th to 85th percentile"
        axes[number + 1].set(xlabel=shifts)
        axes[number + 1].legend(fontsize="small", loc="upper right", ncols=3)
    shown = np.concatenate([found[f"{kind}: percentiles"][0].ravel() for kind in KINDS])
    for each in axes[1:]:
        each.set_ylim(shown.min() - 0.5, shown.max() + 0.2 * np.ptp(shown))
    axes[0].set(xlabel="steps", ylabel="accuracy", ylim=(None, 1))
    axes[0].legend(fontsize="small", loc="lower right")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    seeds=4,
    size={
        "train_images": 55000,
        "held_out": 5000,
        "test_images": 10000,
        "epochs": 55,
        "rates": [0.1, 0.3, 1.0, 3.0, 10.0],
    },
    quick={"train_images": 1000, "held_out": 500, "test_images": 1000, "epochs": 8, "rates": [1.0]},
)

if __name__ == "__main__":
    main(__file__)
