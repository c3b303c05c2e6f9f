"""A plain PyTorch program with all images in memory: `python -m tests.benchmarks.contenders.in_memory`.

They are normalized once, before the loop, as one contiguous tensor. Nothing is tracked, logged or saved.
"""

import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import datasets

from tests.benchmarks.contenders import common


def load(given: common.Arguments, *, train: bool) -> tuple[Tensor, Tensor]:
    """Normalized images [n, 1, 28, 28] and their labels."""
    data = datasets.MNIST(str(given.data), train=train)
    count = given.train if train else given.test
    images = data.data[:count].unsqueeze(1).float() / 255
    return (images - common.MEAN) / common.STD, data.targets[:count]


def run(given: common.Arguments, *, normalize: bool) -> None:
    """Train for an epoch, validate, and print the result."""
    torch.manual_seed(given.seed)
    images, labels = load(given, train=True)
    test_images, test_labels = load(given, train=False)
    model = common.network(normalize)
    optimizer = torch.optim.Adam(model.parameters(), lr=common.LEARNING_RATE)

    started = time.perf_counter()
    model.train()
    for index in torch.randperm(len(images)).split(common.BATCH_SIZE):
        optimizer.zero_grad()
        F.cross_entropy(model(images[index]), labels[index]).backward()
        optimizer.step()
    accuracy = evaluate(model, test_images, test_labels)
    common.report(time.perf_counter() - started, accuracy)


def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The fraction of correct predictions."""
    model.eval()
    with torch.no_grad():
        predicted = [model(batch).argmax(dim=1) for batch in images.split(common.TEST_BATCH_SIZE)]
    return int((torch.cat(predicted) == labels).sum()) / len(labels)


def main() -> None:
    run(common.arguments(__doc__), normalize=True)


if __name__ == "__main__":
    main()
