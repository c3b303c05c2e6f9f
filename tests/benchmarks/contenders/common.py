"""What the programs in this folder share: their arguments, the network, and the line that they print last."""

import argparse
import json
from pathlib import Path

from torch import nn

BATCH_SIZE = 64
TEST_BATCH_SIZE = 1024
LEARNING_RATE = 0.001
SEED = 5

#: Mean and standard deviation of MNIST's training pixels, in [0, 1].
MEAN, STD = 0.1307, 0.3081


class Arguments(argparse.Namespace):
    """The folder of the data sets, how many training and test images to use, and the seed."""

    data: Path
    train: int
    test: int
    seed: int


def arguments(docstring: str | None) -> Arguments:
    """The arguments of a program."""
    parser = argparse.ArgumentParser(description=docstring)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder of the data sets")
    parser.add_argument("--train", type=int, default=60_000, help="training images")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--seed", type=int, default=SEED, help="of the weights and of the order of the images")
    return parser.parse_args(namespace=Arguments())


def network(normalize: bool = True) -> nn.Sequential:
    """The network of `labml_bn.models.ConvNet`, with PyTorch's normalization or none."""
    bias = not normalize
    return nn.Sequential(
        nn.Conv2d(1, 20, 5, bias=bias),
        nn.BatchNorm2d(20) if normalize else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5, bias=bias),
        nn.BatchNorm2d(50) if normalize else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * 4 * 4, 500, bias=bias),
        nn.BatchNorm1d(500) if normalize else nn.Identity(),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def report(loop_seconds: float, accuracy: float, not_counted_seconds: float = 0.0) -> None:
    """Print the line of JSON."""
    print()
    print(json.dumps({"loop_seconds": loop_seconds, "accuracy": accuracy, "not_counted_seconds": not_counted_seconds}))
