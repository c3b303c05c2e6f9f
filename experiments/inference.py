"""Claim 8: inference needs population statistics.

Source: Ioffe & Szegedy 2015, §3.1, as summarised by this project. Normalization with the statistics of the batch is
neither necessary nor desirable during inference: the output should depend only on the input, deterministically. So
after training, the statistics of the population are used, or moving averages over the batches of training.

Measured: a network trained for one epoch; its accuracy on the test images with the running average of training, for
several momenta (its weight of the newest batch; "cumulative" is the plain average), with statistics that are computed
again over 0.1 % to 100 % of the training images, and with those of the test images' own batches of 2 to 1024. Of the
latter also the share of images that are classified otherwise when the batches are drawn differently.

Refuted if: with batches of two the accuracy is not lower than with the running average; or, in batches of 32, no
image's class depends on the other images.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, above, curve, images, panels
from experiments.machinery.command import main
from labml_bn import estimate_population, frozen_statistics
from labml_bn.data.mnist import ImageSet
from labml_bn.models import ConvNet

SHARES = (0.001, 0.01, 0.1, 1.0)
SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def measure(
    trial: Trial,
    *,
    momenta: Sequence[float | None],
    train_images: int,
    test_images: int,
    batch: int,
    norm: str = "batch_norm",
) -> Measured:
    """The accuracies for each momentum, each share of the training images, and each size of batch.

    The first momentum is the one that is judged. None is the plain average over all batches.
    """
    test = images("test", test_images)
    words = [f"train_samples={train_images}", f"valid_samples={test_images}", f"batch_size={batch}", f"norm={norm}"]
    models = [trained(trial, norm, momentum, words) for momentum in momenta]
    by_momentum = [accuracy(classes(model.eval(), test), test) for model in models]

    model = models[0]  # all have the same weights: the running averages play no role in training
    by_size, changing = [], []
    for size in SIZES:
        with frozen_statistics(model.train()):
            orders = [torch.randperm(len(test)) for _ in range(2)]
            one, other = (classes(model, test, order, size) for order in orders)
        by_size.append(accuracy(one, test))
        changing.append(float((one != other).double().mean()))

    by_share = []
    for share in SHARES:
        samples = max(2, round(share * train_images))
        estimate_population(model, images("train", train_images).batches(256, stop=samples))
        by_share.append(accuracy(classes(model.eval(), test), test))
    return {
        "momenta": momenta,
        "by momentum": by_momentum,
        "by share": by_share,
        "by batch size": by_size,
        "changing": changing,
    }


def trained(trial: Trial, norm: str, momentum: float | None, words: Sequence[str]) -> ConvNet:
    """The network after an epoch, with running averages of this momentum."""

    def make() -> ConvNet:
        model = ConvNet(norm)
        for layer in model.modules():
            if isinstance(layer, _BatchNorm):
                layer.momentum = momentum
        return model

    name = f"network=momentum-{momentum}"
    record = trial.train("epochs=1", "inner_iterations=1", "keep=1", name, *words, model=make)
    model = make()
    model.load_state_dict(load_file(record.folder / "model.safetensors"))
    return model


@torch.no_grad()
def classes(model: ConvNet, test: ImageSet, order: Tensor | None = None, size: int = 256) -> Tensor:
    """The class that the network gives each image, [n], if they come in batches of this size, in this order."""
    order = torch.arange(len(test)) if order is None else order
    found = torch.empty_like(test.labels)
    for index in order.split(size):
        found[index] = model(test.batch(index)[0]).argmax(dim=1)
    return found


def accuracy(found: Tensor, test: ImageSet) -> float:
    """The share of these classes that are right."""
    return float((found == test.labels).double().mean())


def judge(found: Found) -> list[Criterion]:
    """What the running average, of the usual momentum, is better by than batches of two; and what depends on others."""
    running, two = found["by momentum"][:, 0], found["by batch size"][:, SIZES.index(2)]
    return [
        above("accuracy with the running average, less that in batches of two", running - two, 0),
        above("share of images whose class depends on their batch of 32", found["changing"][:, SIZES.index(32)], 0),
    ]


def draw(found: Found) -> Figure:
    """The errors for each kind of statistics, and the share of images whose class depends on the others."""
    figure, axes = panels(
        "Running average: momentum",
        "Computed again",
        "Statistics of the test batch",
        "In two different batches",
    )
    momenta = found["momenta"][0]
    order = np.argsort(momenta)  # NaN, the plain average, is the last
    curve(axes[0], range(len(momenta)), 1 - found["by momentum"][:, order], "", 0)
    names = ["cumulative" if np.isnan(momentum) else f"{momentum:g}" for momentum in momenta[order]]
    axes[0].set_xticks(range(len(momenta)), names, rotation=45)
    axes[0].set_xlabel("weight of the newest batch")
    curve(axes[1], [100 * share for share in SHARES], 1 - found["by share"], "", 1)
    axes[1].set_xlabel("% of the training images")
    curve(axes[2], SIZES, 1 - found["by batch size"], "", 2)
    curve(axes[3], SIZES, found["changing"], "", 3)
    for each in axes[2:]:
        each.set_xlabel("images in a batch")
    for each in axes[1:]:
        each.set_xscale("log")
    for each in axes[:3]:
        each.set_yscale("log")
        each.set_ylim(0.005, 0.5)
        each.set_ylabel("share of test images, wrong")
    axes[3].set_ylabel("share of test images, other class")
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    seeds=8,
    size={
        "momenta": [0.1, 0.001, 0.01, 0.5, 1.0, None],
        "train_images": 60_000,
        "test_images": 10_000,
        "batch": 64,
    },
    quick={"momenta": [0.1], "train_images": 1000, "test_images": 500, "batch": 20},
)

if __name__ == "__main__":
    main(__file__)
