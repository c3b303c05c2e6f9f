"""The training loop: one visible way from the configuration's parts to a trained network."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bn import tracking
from labml_bn.configs import Configs
from labml_bn.errors import UserError
from labml_bn.norm.watching import evaluating
from labml_bn.stopping import Stop


class DivergedError(UserError):
    """The loss became infinite or no number."""


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


@dataclass
class Progress:
    """Where a training is: after `step` batches of the epoch `epoch` (from 0), with `seen` images in all.

    `metrics` has what of this was not logged yet.
    """

    epoch: int = 0
    step: int = 0
    seen: int = 0
    metrics: tracking.TrainingMetrics = field(default_factory=tracking.TrainingMetrics)


def train(
    c: Configs,
    watcher: Watcher,
    progress: Progress | None = None,
    save: Callable[[Progress, Evaluation | None], object] = lambda progress, test: None,
    stop: Stop | None = None,
) -> Evaluation | None:
    """Train as the configuration says, logging all the way. Returns the last evaluation over all test images, if any.

    Goes on from `progress`, which it moves on. `save` is called wherever a training can go on from later: after some of
    the validations, at the end of each epoch, then with the evaluation of it, and when it is asked to stop. Raises
    DivergedError where the loss is no number any more, and what `stop` was asked for.
    """
    p = progress or Progress()
    steps = math.ceil(len(c.train_digits) / c.train_batch_size)
    interval = max(1, round(c.checkpoint_interval * c.inner_iterations))
    test = None
    try:
        while p.epoch < c.epochs:
            due = True
            for images, labels in c.train_digits.shuffled(c.train_batch_size, c.seed.seed, p.epoch, p.step):
                # The epoch is cut into `inner_iterations` parts; at the end of each, the same part of the test
                # images is looked at.
                parts = [(p.step + taken) * c.inner_iterations // steps for taken in (0, 1)]
                try:
                    loss, correct = train_step(c.model, c.optimizer, images, labels)
                except DivergedError as error:
                    raise DivergedError(f"epoch {p.epoch + 1}, step {p.step + 1}: {error}") from error
                p.step += 1
                p.seen += len(labels)
                p.metrics.add(p.seen, len(labels), loss, correct)
                watcher.batch(len(labels))
                if parts[0] < parts[1]:
                    _validate(c, watcher, p, *parts)
                    before, after = ((p.epoch * c.inner_iterations + part) // interval for part in parts)
                    due = before < after
                    if due and p.step < steps:
                        _check(c.model, p)
                        save(p, None)
                if stop is not None and stop.asked is not None:
                    _check(c.model, p)
                    save(p, None)
                    raise stop.asked

            _check(c.model, p)
            test = evaluate(c.model, c.valid_digits.batches(c.valid_batch_size))
            tracking.save_evaluation(p.seen, "test", test.loss, test.accuracy)
            tracking.flush()
            p.epoch, p.step = p.epoch + 1, 0
            ends = p.epoch == c.epochs or (stop is not None and stop.asked is not None)
            if due or ends:
                save(p, test)
            watcher.epoch(p.epoch, test)
            if p.epoch < c.epochs and stop is not None and stop.asked is not None:
                raise stop.asked
    finally:
        p.metrics.save()
    return test


def _validate(c: Configs, watcher: Watcher, p: Progress, part: int, next_part: int) -> None:
    """Log the training since the last time, and how the network does on the next part of the test images."""
    start, stop = (len(c.valid_digits) * number // c.inner_iterations for number in (part, next_part))
    train_loss, train_accuracy = p.metrics.save()
    tracking.save_running_estimates(p.seen, c.model)
    if start < stop:
        valid = evaluate(c.model, c.valid_digits.batches(c.valid_batch_size, start, stop))
        tracking.save_evaluation(p.seen, "valid", valid.loss, valid.accuracy)
    tracking.flush()
    if start < stop:
        watcher.validation(p.epoch + 1, p.step, train_loss, train_accuracy, valid)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of the optimizer on a batch. Returns its mean loss and its number of right answers, on the device.

    Raises DivergedError where the loss is no number; the parameters are then as they were.
    """
    model.train()
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    if not loss.isfinite():
        finite = "all statistics and parameters are finite, so it went at the output"
        raise DivergedError(f"the loss is {loss.item()}: {_first_to_go(model) or finite}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), (logits.argmax(dim=1) == labels).sum()


def _check(model: nn.Module, p: Progress) -> None:
    """Raise DivergedError for a network that no run can go on from: the last step may have spoilt it."""
    gone = _first_to_go(model)
    if gone is not None:
        raise DivergedError(f"epoch {p.epoch + 1}, step {p.step}: the network has numbers that are none: {gone}")


def _first_to_go(model: nn.Module) -> str | None:
    """Where in the network, from its input on, something is no number any more: statistics before parameters."""
    for kind in (model.named_buffers(), model.named_parameters()):
        for name, tensor in kind:
            if not tensor.isfinite().all():
                layer, _, what = name.rpartition(".")
                return f"{layer}'s {what} went first"
    return None


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
