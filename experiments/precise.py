"""Claim 17: population statistics need few samples, 10³ to 10⁴.

Source: Wu & Johnson 2021 (2105.07576), §3 and Appendix A.3, as summarised by this project; the paper's text was not at
hand. Statistics for inference that are recomputed with fixed weights need only 10³ to 10⁴ training images: with more,
the accuracy does not improve.

Statistics of N independent images differ from those of all by about 1/√N standard deviations, 3 % for 1,000.

Measured: networks are trained as usual. Their statistics are then recomputed from N random training images, several
times for each N, and from all of them, with both estimators of `labml_bn.estimate_population`: "batches" averages the
statistics of batches of 64, as the paper does, "whole" computes exact ones layer by layer. (a) The accuracy on the test
images that is lost by using N of them. (b) The difference of the means from those of all, relative to the standard
deviation, over all channels.

Refuted if: with 1,000 or with 10,000 images more than 0.1 percentage points of accuracy are lost. That is ten of the
10,000 test images, about what two seeds differ by.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, below, curve, images, panels
from experiments.machinery.command import main
from labml_bn import estimate_population
from labml_bn.data.mnist import ImageSet
from labml_bn.trained.weights import WEIGHTS, load_weights

ESTIMATORS = ("batches", "whole")

#: Each estimate is repeated with so many random samples, because the claim is about the expected loss.
DRAWS = 3

#: Images in a batch, as in the training.
BATCH = 64


def measure(
    trial: Trial, *, layers: str, train_samples: int, epochs: int, sizes: Sequence[int], by_class: bool = False
) -> Measured:
    """The lost accuracy and the difference of the means for each number of images, by both estimators.

    `by_class` takes the first images in the order of their classes instead of random ones.
    """
    run = trial.train(f"layers={layers}", f"train_samples={train_samples}", f"epochs={epochs}", "device.use_cuda=false")
    network = load_weights(run.folder / WEIGHTS).model
    train, test = images("train", train_samples), images("test", 10_000)
    running = accuracy(network, test)
    found: dict[str, Tensor | float] = {}
    for estimator in ESTIMATORS:
        mean, var = recompute(network, train, torch.arange(len(train)), estimator)
        best = accuracy(network, test)
        lost, difference = torch.zeros(len(sizes), DRAWS), torch.zeros(len(sizes), DRAWS)
        for row, size in enumerate(sizes):
            for draw in range(DRAWS):
                order = train.labels.argsort(stable=True) if by_class else torch.randperm(len(train))
                its_mean, _ = recompute(network, train, order[:size], estimator)
                lost[row, draw] = best - accuracy(network, test)
                difference[row, draw] = ((its_mean - mean).square() / var).mean().sqrt()
        found |= {f"{estimator}: lost": lost.mean(dim=1), f"{estimator}: difference": difference.mean(dim=1)}
        found |= {f"{estimator}: lost by the running average": best - running}
    return {"images": list(sizes), **found}


def recompute(network: nn.Module, train: ImageSet, chosen: Tensor, estimator: str) -> tuple[Tensor, Tensor]:
    """Set the network's statistics to those of the chosen images. Returns means and variances of all its channels."""
    estimate_population(network, [train.batch(part) for part in chosen.split(BATCH)], estimator=estimator)
    state = network.state_dict()
    mean, var = (torch.cat([state[key] for key in state if key.endswith(end)]) for end in ("_mean", "_var"))
    return mean, var


@torch.no_grad()
def accuracy(network: nn.Module, test: ImageSet) -> float:
    """The accuracy on the test images, in per cent."""
    correct = sum(int((network(x).argmax(dim=1) == labels).sum()) for x, labels in test.batches(250))
    return 100 * correct / len(test)


def judge(found: Found) -> list[Criterion]:
    """Neither end of what is claimed to be enough loses accuracy."""
    sizes = list(found["images"][0])
    return [
        below(f"points of accuracy lost with {size:,} images, {estimator}", values[:, sizes.index(size)], 0.1)
        for estimator in ESTIMATORS
        for values in [found[f"{estimator}: lost"]]
        for size in (1_000, 10_000)
    ]


def draw(found: Found) -> Figure:
    """Both numbers against the number of images."""
    figure, (left, right) = panels("Accuracy that is lost by using only N images", "Difference of the means")
    sizes = found["images"][0]
    for number, estimator in enumerate(ESTIMATORS):
        curve(left, sizes, found[f"{estimator}: lost"], estimator, number)
        curve(right, sizes, found[f"{estimator}: difference"], estimator, number)
    running = found[f"{ESTIMATORS[0]}: lost by the running average"]
    curve(left, sizes, np.repeat(running[:, None], len(sizes), axis=1), "running average", len(ESTIMATORS))
    left.axhline(0.1, color="black", linestyle=":", label="bound of the claim")
    left.set_yscale("symlog", linthresh=0.1)
    left.set_ylabel("percentage points")
    right.plot(sizes, 1 / np.sqrt(sizes), color="black", linestyle=":", label="1/√N")
    right.set_yscale("log")
    right.set_ylabel("standard deviations (root mean square)")
    for axes in (left, right):
        axes.axvspan(1_000, 10_000, color="black", alpha=0.08, label="claimed to be enough")
        axes.set_xscale("log")
        axes.set_xlabel("training images used for the statistics, N")
        axes.legend(fontsize="small")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    size={
        "layers": "20C5-P2-50C5-P2-500N",
        "train_samples": 60_000,
        "epochs": 2,
        "sizes": [10, 30, 100, 300, 1_000, 3_000, 10_000],
    },
    quick={"layers": "16C5S3-100N", "train_samples": 12_000, "epochs": 2, "sizes": [10, 1_000, 10_000]},
)

if __name__ == "__main__":
    main(__file__)
