"""The training loop: batches, validations, checkpoints, and an evaluation on all test images after each epoch."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bn.norm import estimate_population
from labml_bn.norm.hooks import evaluating
from labml_bn.training import distributions, tracking
from labml_bn.training.forward import make_forward
from labml_bn.training.learning_rate import set_learning_rate
from labml_bn.training.parts import Configs
from labml_bn.training.schedule import Schedule
from labml_bn.training.stopping import Stop
from labml_bn.training.tracking import DivergedError


@dataclass(frozen=True)
class Evaluation:
    """The mean loss of a network on `images` images, and how many it classified correctly."""

    loss: float
    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        """The fraction of correct predictions."""
        return self.correct / self.images


class Watcher(Protocol):
    """Follows the training process. `epoch` and `step` count from 1."""

    def batch(self, images: int) -> None:
        """A step on a batch of `images` was taken. An exception raised here ends the training process."""

    def validation(self, epoch: int, step: int, loss: float, accuracy: float, valid: Evaluation) -> None:
        """A part of the held-out images, or else of the test images, was evaluated.

        `loss` and `accuracy` are of the training batches since the last validation.
        """

    def epoch(self, epoch: int, test: Evaluation) -> None:
        """An epoch has ended, and all the test images were evaluated."""


@dataclass
class Progress:
    """How far a run has come: `step` batches of the epoch `epoch` (from 0), `seen` images in all.

    `metrics` are those of these batches that are not logged yet.
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
    """Train and log as configured. Returns the last evaluation on all test images, or None if no epoch was left.

    Continues from `progress`, which it updates. `save` is called whenever a checkpoint is due: after some of the
    validations, at the end of an epoch (with the evaluation by which checkpoints are chosen), and when `stop` is
    requested. Raises DivergedError for a loss, parameter or running statistic that is NaN or infinite, and the
    interrupt that `stop` has caught. On a GPU the losses are checked at the next validation.
    """
    p, stop, test = progress or Progress(), stop or Stop(), None
    schedule, forward = make_schedule(c), make_forward(c)
    check_loss = c.device.type == "cpu"  # elsewhere each check would wait for the device
    try:
        for images, labels in _remaining_batches(c, p):
            set_learning_rate(c.optimizer, p.epoch * schedule.steps + p.step, c.epochs * schedule.steps)
            place = f"epoch {p.epoch + 1}, step {p.step + 1}: "
            validation_due = schedule.validation_due(p.step + 1)
            tracked = validation_due and c.track == "distributions"
            with distributions.observing(c.model) if tracked else contextlib.nullcontext() as statistics:
                loss, correct = train_step(c.model, c.optimizer, images, labels, place, forward, check_loss)
            p.step += 1
            p.seen += len(labels)
            p.metrics.add(p.seen, len(labels), loss, correct)
            watcher.batch(len(labels))

            valid = None
            if validation_due:
                valid = _validate(c, watcher, p, schedule.share(p.step, len(c.valid_set)), statistics)
            interrupt = stop.requested
            epoch_ends = schedule.epoch_ends(p.step)
            save_due = schedule.checkpoint_due(p.epoch, p.step) or interrupt is not None
            if epoch_ends or save_due:
                _check_finite(c.model, p)
            ended = _end_epoch(c, p, valid) if epoch_ends else None
            finished = p.epoch == c.epochs
            if save_due or finished:
                save(p, ended.chosen_by if ended else None)
            if ended:
                watcher.epoch(p.epoch, ended.test)
                test = ended.test
            if interrupt and not finished:
                raise interrupt
    except RuntimeError:
        # Ctrl-C in a terminal also ends the C++ compiler that `torch.compile` runs. The step was not finished, so the
        # run resumes from its last checkpoint.
        if c.compile and stop.requested:
            raise stop.requested from None
        raise
    finally:
        p.metrics.save()
    return test


def make_schedule(c: Configs) -> Schedule:
    """When validations and checkpoints are due with these settings."""
    steps = math.ceil(len(c.train_set) / c.train_batch_size)
    return Schedule(steps, c.inner_iterations, max(1, round(c.checkpoint_interval * c.inner_iterations)))


def _remaining_batches(c: Configs, p: Progress) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches from `p` to the end of the last epoch."""
    first_epoch, first_step = p.epoch, p.step
    for epoch in range(first_epoch, c.epochs):
        start = first_step if epoch == first_epoch else 0
        yield from c.train_set.shuffled(c.train_batch_size, c.seed.seed, epoch, start, c.augmentation)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    place: str = "",
    forward: Callable[[Tensor], Tensor] | None = None,
    check_loss: bool = True,
) -> tuple[Tensor, Tensor]:
    """One optimizer step on a batch. Returns its mean loss and its number of correct predictions, on the device.

    `forward` is the forward pass of `model`, if it is not the model itself. With `check_loss`, raises DivergedError,
    which begins with `place`, for a loss that is NaN or infinite; the parameters are unchanged.
    """
    model.train()
    logits = (model if forward is None else forward)(images)
    loss = F.cross_entropy(logits, labels)
    if check_loss and not loss.isfinite():
        raise _diverged(model, place, loss.item())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), (logits.argmax(dim=1) == labels).sum()


def _validate(
    c: Configs, watcher: Watcher, p: Progress, share: range, statistics: distributions.Statistics | None
) -> Evaluation | None:
    """Log the training metrics since the last validation, and evaluate a share of the images, if any.

    With batch `statistics` of the last step, the distributions of each layer are logged too.
    """
    _check_losses(c.model, p)
    train_loss, train_accuracy = p.metrics.save()
    tracking.save_running_statistics(p.seen, c.model)
    if statistics is not None:
        distributions.save(p.seen, c.model, statistics)
    if not share:
        tracking.flush()
        return None
    valid = evaluate(c.model, c.valid_set.batches(c.valid_batch_size, share.start, share.stop))
    tracking.save_evaluation(p.seen, "valid", valid.loss, valid.accuracy)
    tracking.flush()
    watcher.validation(p.epoch + 1, p.step, train_loss, train_accuracy, valid)
    return valid


@dataclass(frozen=True)
class EpochEnd:
    """The evaluations at the end of an epoch: on the images by which checkpoints are chosen, and on the test images."""

    chosen_by: Evaluation
    test: Evaluation


def _end_epoch(c: Configs, p: Progress, valid: Evaluation | None) -> EpochEnd:
    """Evaluate and log all the held-out and all the test images, and move `p` to the start of the next epoch.

    `valid` is the validation at this step. With one validation an epoch it has been of all its images. After the last
    epoch, population statistics come first, if they are configured: the running statistics are those of distorted
    images and, with bfloat16, of rounded activations, which no evaluation has.
    """
    if c.population_samples > 0 and p.epoch + 1 == c.epochs:
        estimate_population(c.model, c.train_set.batches(c.valid_batch_size, stop=c.population_samples))
        valid = None
    if valid is None or valid.images < len(c.valid_set):
        valid = evaluate(c.model, c.valid_set.batches(c.valid_batch_size))
    test = valid
    if c.held_out > 0:
        tracking.save_evaluation(p.seen, "held_out", valid.loss, valid.accuracy)
        test = evaluate(c.model, c.test_set.batches(c.valid_batch_size))
    tracking.save_evaluation(p.seen, "test", test.loss, test.accuracy)
    tracking.flush()
    p.epoch, p.step = p.epoch + 1, 0
    return EpochEnd(valid, test)


def _check_losses(model: nn.Module, p: Progress) -> None:
    """Raise DivergedError for the first loss since the last validation that is NaN or infinite."""
    losses = p.metrics.losses()
    for step, loss in enumerate(losses, p.step - len(losses) + 1):
        if not math.isfinite(loss):
            raise _diverged(model, f"epoch {p.epoch + 1}, step {step}: ", loss)


def _diverged(model: nn.Module, place: str, loss: float) -> DivergedError:
    cause = _first_non_finite(model) or "the overflow is in the logits"
    return DivergedError(f"{place}the loss is {loss}: {cause}")


def _check_finite(model: nn.Module, p: Progress) -> None:
    """Raise DivergedError for a network that no run can be resumed from."""
    first = _first_non_finite(model)
    if first is not None:
        raise DivergedError(f"epoch {p.epoch + 1}, step {p.step}: {first}")


def _first_non_finite(model: nn.Module) -> str | None:
    """The first layer, from the input on, with non-finite values: running statistics before parameters."""
    for tensors in (model.named_buffers(), model.named_parameters()):
        for name, tensor in tensors:
            if not tensor.isfinite().all():
                layer, _, what = name.rpartition(".")
                return f"non-finite values; first in {layer}'s {what}"
    return None


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Evaluate the network on some batches, in evaluation mode; each module's mode is restored afterwards."""
    loss, correct, images = 0.0, 0, 0
    with evaluating(model):
        for x, labels in batches:
            logits = model(x)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(dim=1) == labels).sum())
            images += len(labels)
    return Evaluation(loss / images, correct, images)
