"""Claim 18: small batches hurt batch normalization, and its alternatives less.

Source: Ioffe 2017 (1702.03275), abstract: its effectiveness diminishes in small batches, and models with batch
renormalization are "substantially better" there. Wu & He 2018 (1803.08494), abstract: its error increases rapidly as
the batch becomes smaller; that of group normalization is stable, and lower at a batch size of 2. Summers & Dinneen
2019 (1906.03548), abstract: ghost batches, statistics of parts of the batch, have a "powerful regularization effect".

Measured: the test accuracy of a small convolutional network after a fixed number of images, in batches of 2 to 1024, by
batch normalization, the same with ghost batches of 16, batch renormalization and group normalization with 4 groups. The
learning rate of plain SGD is searched for each normalization and batch size: 0.02, 0.07, 0.2 or 0.6, times the square
root of batch size / 64, whichever is best on 2,000 held-out images. Inference uses the statistics of 5,000 training
images, not a running average, which with small batches is noise. The limits of renormalization are relaxed from 5 % of
the steps on, and reach r = 3 at 30 % and d = 5 at 20 %; its running averages have the momentum 20 / steps, within 0.01
and 0.1.

Refuted if: one of these is not true, by the point of accuracy that would matter in a network of about 95 %: batch
normalization is more than 1 point worse at 2 than at 32; group normalization changes by less than 1 point between them;
at 2, group normalization and renormalization each are more than 1 point better than batch normalization; and ghost
batches are better than batch normalization at all, on average over the batches larger than they are.
"""

import functools
import math
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure
from torch import nn

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, above, curve, panels, within
from experiments.machinery.command import main
from labml_bn import BatchNorm
from labml_bn.norm import Renormalization
from labml_bn.records.record import DIVERGED

BN, GHOST, RENORM, GROUP = "batch-norm", "ghost-batches", "renormalization", "group-norm"
GHOST_SIZE = 16

#: For a number of steps, what makes the layer for a number of channels.
Norms = dict[str, Callable[[int], nn.Module]]


def norms(steps: int) -> Norms:
    """What makes the layer for a number of channels, in a run with this number of steps."""
    relaxing = Renormalization(start=steps // 20, r_end=steps * 3 // 10, d_end=steps // 5)
    momentum = min(max(20 / steps, 0.01), 0.1)
    return {
        BN: BatchNorm,
        GHOST: functools.partial(BatchNorm, ghost_batch_size=GHOST_SIZE),
        RENORM: functools.partial(BatchNorm, momentum=momentum, renorm=relaxing),
        GROUP: functools.partial(nn.GroupNorm, 4),
    }


def network(norm: Callable[[int], nn.Module]) -> nn.Module:
    """Two convolutions with a stride of 2, and a linear layer, each normalized; then the classes."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5, stride=2), norm(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 5, stride=2), norm(16), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(256, 100), norm(100), nn.ReLU()),
        nn.Linear(100, 10),
    )


def measure(
    trial: Trial,
    *,
    batches: Sequence[int],
    rates: Sequence[float],
    samples: int,
    tested: int,
    epochs: int,
    choose: Callable[[int], Norms] = norms,
) -> Measured:
    """The accuracies [batch sizes] in per cent, and the learning rates, for each normalization."""
    found: dict[str, list[float]] = {"batch sizes": list(batches)}
    for name in (BN, GHOST, RENORM, GROUP):
        found[name], found[f"rate, {name}"] = [], []
        for row, batch in enumerate(batches):
            if name == GHOST and batch <= GHOST_SIZE:  # one ghost batch is the batch
                accuracy, rate = found[BN][row], found[f"rate, {BN}"][row]
            else:
                steps = epochs * math.ceil(samples / batch)
                make = functools.partial(network, choose(steps)[name])
                words = [f"network={name}", f"batch_size={batch}", f"train_samples={samples}", f"epochs={epochs}"]
                words += [f"valid_samples={tested}"]
                scaled = [rate * math.sqrt(batch / 64) for rate in rates]
                _, accuracy, rate = max((*trained(trial, make, f"lr={rate}", *words), rate) for rate in scaled)
            found[name].append(accuracy)
            found[f"rate, {name}"].append(rate)
    return found


def trained(trial: Trial, make: Callable[[], nn.Module], *words: str) -> tuple[float, float]:
    """The accuracies on held-out and test images in per cent; those of a guess if the run diverged."""
    record = trial.train(
        *("optimizer.optimizer=SGD", "optimizer.momentum=0", "population_samples=5000", "held_out=2000"),
        *("inner_iterations=1", "keep=1", "use_cuda=false"),
        *words,
        model=make,
    )
    metrics = record.metrics("accuracy.held_out", "accuracy.test")
    if record.status == DIVERGED:
        return 10.0, 10.0
    return 100 * float(metrics["accuracy.held_out"].values[-1, 0]), 100 * float(metrics["accuracy.test"].values[-1, 0])


def judge(found: Found) -> list[Criterion]:
    """What the sources say of small batches, and of ghost batches."""
    sizes = list(found["batch sizes"][0])
    small, usual, larger = sizes.index(2), sizes.index(32), [row for row, size in enumerate(sizes) if size > GHOST_SIZE]
    at_2 = {name: found[name][:, small] for name in (BN, RENORM, GROUP)}
    gain = (found[GHOST] - found[BN])[:, larger].mean(axis=1)
    return [
        above("points that batch normalization loses from 32 to 2", found[BN][:, usual] - at_2[BN], 1),
        within("points that group normalization loses", found[GROUP][:, usual] - at_2[GROUP], -1, 1),
        above("at 2, group normalization is better by points", at_2[GROUP] - at_2[BN], 1),
        above("at 2, renormalization is better by points", at_2[RENORM] - at_2[BN], 1),
        above(f"in batches larger than {GHOST_SIZE}, ghost batches are better by points", gain, 0),
    ]


def draw(found: Found) -> Figure:
    """The error, and the learning rates that were chosen, against the batch size."""
    figure, (left, right) = panels("Test error after the same number of images", "Learning rates that were best")
    sizes = found["batch sizes"][0]
    for number, name in enumerate((BN, GHOST, RENORM, GROUP)):
        curve(left, sizes, 100 - found[name], name.replace("-", " "), number)
        curve(right, sizes, found[f"rate, {name}"], name.replace("-", " "), number)
    left.set_ylim(1, 100)
    left.set_ylabel("test error in %")
    right.set_ylim(1e-3, 10)
    right.set_ylabel("learning rate")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("batch size")
        axes.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
        axes.legend(fontsize="small")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    size={
        "batches": [2, 8, 32, 128, 1024],
        "rates": [0.07, 0.2, 0.6],
        "samples": 10_000,
        "tested": 10_000,
        "epochs": 2,
    },
    quick={"batches": [2, 32], "rates": [0.2], "samples": 300, "tested": 1000},
)

if __name__ == "__main__":
    main(__file__)
