"""Claim 7: batch normalization regularizes.

Source: Ioffe & Szegedy 2015, §3.4, as summarised; the paper's text could not be read. A training image is seen together
with the others of its mini-batch, so that what the network computes for it is not deterministic. This helps
generalization, and dropout can be removed or reduced in strength.

Measured: the accuracy on the test images, and the gap to that on the training images (of more than 10,000, on the first
10,000), of a network with two hidden layers of 256 units: as it is, with batch normalization, with dropout of half of
the hidden units, and with both. It is trained by Adam at the default rate of 0.001, which was not tuned for any of
them, on 500 to 60,000 images of MNIST, for more epochs if they are few. All is measured in evaluation.

Refuted if: the gap is not smaller with batch normalization than without at each size; or, in the mean over the sizes,
the test accuracy is not higher with it (a smaller gap alone could be a worse fit), or dropout does not add less to the
test accuracy of a network that has it than of one that does not.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import nn

from experiments.laboratory import Criterion, Experiment, Found, Measured, Trial, above, curve, images, panels
from experiments.machinery.command import main
from labml_bn import BatchNorm
from labml_bn.data.mnist import ImageSet
from labml_bn.trained.weights import WEIGHTS

#: The networks: whether they have batch normalization, and how much dropout.
NETWORKS = {"neither": (False, 0.0), "BN": (True, 0.0), "dropout": (False, 0.5), "BN and dropout": (True, 0.5)}


def network(norm: Callable[[int], nn.Module], dropout: float) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 256), norm(256), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(256, 256), norm(256), nn.ReLU(), nn.Dropout(dropout), nn.Linear(256, 10)),
    )


def measure(
    trial: Trial, *, sizes: Sequence[tuple[int, int]], test_samples: int, norm: Callable[[int], nn.Module] = BatchNorm
) -> Measured:
    """The accuracies of each network on training and test images. `sizes`: how many training images, and epochs."""
    test = images("test", test_samples)
    measured: dict[str, list[float]] = {"sizes": [float(samples) for samples, _ in sizes]}
    for name, (has_norm, dropout) in NETWORKS.items():
        measured |= {f"train {name}": [], f"test {name}": []}
        for samples, epochs in sizes:
            make = partial(network, norm if has_norm else nn.Identity, dropout)
            run = trial.train(
                *(f"network={name.replace(' ', '-')}", f"norm={'batch_norm' if has_norm else 'none'}"),
                *(f"train_samples={samples}", f"epochs={epochs}", f"valid_samples={test_samples}"),
                *("inner_iterations=1", "checkpoint_interval=1000", "use_cuda=false"),
                model=make,
            )
            trained = make()
            trained.load_state_dict(load_file(run.folder / WEIGHTS))
            measured[f"train {name}"].append(accuracy(trained, images("train", min(samples, 10_000))))
            measured[f"test {name}"].append(accuracy(trained, test))
    return measured


@torch.no_grad()
def accuracy(trained: nn.Module, images: ImageSet) -> float:
    """The part of the images that the network classifies correctly."""
    trained.eval()
    inputs, labels = images.batch(slice(None))
    return float((trained(inputs).argmax(dim=1) == labels).float().mean())


def judge(found: Found) -> list[Criterion]:
    """A smaller gap, a higher accuracy, and less to gain by dropout."""
    gap = {name: found[f"train {name}"] - found[f"test {name}"] for name in NETWORKS}
    test = {name: found[f"test {name}"].mean(axis=1) for name in NETWORKS}
    gain_without, gain_with = test["dropout"] - test["neither"], test["BN and dropout"] - test["BN"]
    return [
        *(
            above(f"gap without BN minus gap with, {size:.0f} images", gap["neither"][:, i] - gap["BN"][:, i], 0)
            for i, size in enumerate(found["sizes"][0])
        ),
        above("test accuracy with BN minus without", test["BN"] - test["neither"], 0),
        above("what dropout adds to it without BN minus with", gain_without - gain_with, 0),
    ]


def draw(found: Found) -> Figure:
    """Gaps and accuracies over the number of training images."""
    figure, (left, right) = panels("Gap: accuracy on training minus on test images", "Errors on test images")
    sizes = found["sizes"][0]
    for number, name in enumerate(NETWORKS):
        curve(left, sizes, found[f"train {name}"] - found[f"test {name}"], name, number)
        curve(right, sizes, 1 - found[f"test {name}"], name, number)
    for axes, what in ((left, "difference in accuracy"), (right, "share of the images")):
        axes.set_xscale("log")
        axes.set_yscale("log" if axes is right else "linear")
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("training images")
        axes.set_ylabel(what)
        axes.legend(fontsize="small")
    right.set_yticks([0.02, 0.04, 0.08, 0.16], ["2 %", "4 %", "8 %", "16 %"])
    return figure


EXPERIMENT = Experiment(
    measure,
    judge,
    draw,
    seeds=8,
    size={"sizes": [[500, 60], [2000, 30], [8000, 15], [60_000, 5]], "test_samples": 10_000},
    quick={"sizes": [[500, 4]], "test_samples": 1000},
)

if __name__ == "__main__":
    main(__file__)
