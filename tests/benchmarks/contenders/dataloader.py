"""A plain PyTorch program with DataLoader: `python -m tests.benchmarks.contenders.dataloader`.

ToTensor and Normalize on every image, nn.BatchNorm, a loop: as in most tutorials.
"""

import time

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from tests.benchmarks.contenders import common


def main() -> None:
    given = common.arguments(__doc__)
    torch.manual_seed(given.seed)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((common.MEAN,), (common.STD,))])
    train_set = Subset(datasets.MNIST(str(given.data), train=True, transform=transform), range(given.train))
    test_set = Subset(datasets.MNIST(str(given.data), train=False, transform=transform), range(given.test))
    train_loader = DataLoader(train_set, batch_size=common.BATCH_SIZE, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=common.TEST_BATCH_SIZE)
    model = common.network()
    optimizer = torch.optim.Adam(model.parameters(), lr=common.LEARNING_RATE)

    started = time.perf_counter()
    model.train()
    for step, (images, labels) in enumerate(train_loader):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.4f}")
    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in test_loader:
            correct += int((model(images).argmax(dim=1) == labels).sum())
    common.report(time.perf_counter() - started, correct / given.test)


if __name__ == "__main__":
    main()
