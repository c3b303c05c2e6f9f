"""The training loop: one visible way from the configuration's parts to a trained network."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bn import tracking
from labml_bn.configs import Configs
from labml_bn.norm.watching import evaluating


@dataclass(frozen=True)
class Evaluation:
    """How a network did on `images` images: the mean loss, and how many it got right."""

    loss: float
    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        """The fraction of right answers."""
        return self.correct / self.images


class Watcher(Protocol):
    """Whoever wants to see the training as it goes. `epoch` and `step` count from 1."""

    def batch(self, images: int) -> None:
        """A batch of `images` has been trained on. An exception raised here ends the training."""

    def validation(self, epoch: int, step: int, loss: float, accuracy: float, valid: Evaluation) -> None:
        """A part of the test images was evaluated; `loss` and `accuracy` are of the training since the last part."""

    def epoch(self, epoch: int, test: Evaluation) -> None:
        """An epoch has ended, and all the test images were evaluated."""


def train(c: Configs, watcher: Watcher) -> Evaluation:
    """Train as the configuration says, logging all the way. Returns the last evaluation over all test images."""
    steps = math.ceil(len(c.train_digits) / c.train_batch_size)
    metrics = tracking.TrainingMetrics()
    seen = 0
    try:
        for epoch in range(c.epochs):
            validated = 0
            batches = c.train_digits.shuffled(c.train_batch_size, c.seed.seed, epoch)
            for step, (images, labels) in enumerate(batches, 1):
                loss, correct = train_step(c.model, c.optimizer, images, labels)
                seen += len(labels)
                metrics.add(seen, len(labels), loss, correct)
                watcher.batch(len(labels))

                # The epoch is cut into `inner_iterations` parts; at the end of each, the same part of the test
                # images is looked at.
                part = step * c.inner_iterations // steps
                if part > validated:
                    start, stop = (len(c.valid_digits) * p // c.inner_iterations for p in (validated, part))
                    validated = part
                    train_loss, train_accuracy = metrics.save()
                    tracking.save_running_estimates(seen, c.model)
                    if start < stop:
                        valid = evaluate(c.model, c.valid_digits.batches(c.valid_batch_size, start, stop))
                        tracking.save_evaluation(seen, "valid", valid.loss, valid.accuracy)
                        tracking.flush()
                        watcher.validation(epoch + 1, step, train_loss, train_accuracy, valid)

            test = evaluate(c.model, c.valid_digits.batches(c.valid_batch_size))
            tracking.save_evaluation(seen, "test", test.loss, test.accuracy)
            tracking.flush()
            watcher.epoch(epoch + 1, test)
    finally:
        metrics.save()
    return test


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of the optimizer on a batch. Returns its mean loss and its number of right answers, on the device."""
    model.train()
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), (logits.argmax(dim=1) == labels).sum()


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """How the network does on some batches, in evaluation; every module gets its mode back afterwards."""
    loss, correct, images = 0.0, 0, 0
    with evaluating(model):
        for x, labels in batches:
            logits = model(x)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(dim=1) == labels).sum())
            images += len(labels)
    return Evaluation(loss / images, correct, images)
