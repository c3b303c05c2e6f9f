"""A run as an experiment of labml: its start, its metrics, its end.

A run is a folder `LOGS/batch_norm/UUID` with labml's files: `run.yaml` (start time, commit), `configs.yaml`,
`log.jsonl` (the metrics) and `run_log.jsonl` (how it ended). The step of a metric is the number of training images
seen.

| metric | value | when |
| --- | --- | --- |
| `loss.train` | mean loss of the batch | every batch |
| `accuracy.train` | over the batches since the last validation | every validation |
| `loss.valid`, `accuracy.valid` | over the next part of the held-out, or else the test images | every validation |
| `loss.held_out`, `accuracy.held_out` | over all the held-out images, if any | every epoch |
| `loss.test`, `accuracy.test` | over all the test images | every epoch |
| `bn.LAYER.running_mean`, `bn.LAYER.running_var` | per channel (dashboard: percentiles) | every validation |

With `track=distributions` also, of the last training step before the validation (`distributions.py`):

| metric | value | when |
| --- | --- | --- |
| `bn.LAYER.batch_mean`, `bn.LAYER.batch_var` | of the batch, biased, per channel | every validation |
| `bn.LAYER.weight`, `bn.LAYER.bias` | γ and β after the step, per channel | every validation |
| `bn.LAYER.weight_gradient`, `bn.LAYER.bias_gradient` | per channel | every validation |
| `gradient.LAYER.weight` | of a convolution or linear layer: quantiles 0, 5, ... 100 % | every validation |
"""

import contextlib
import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from labml import experiment, lab, tracker
from labml.internal.experiment import experiment_singleton
from labml.internal.tracker import tracker_singleton
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bn.cli.errors import StoppedError, UserError, reason
from labml_bn.cli.files import delete_leftovers, relative_path, resolve_folder
from labml_bn.cli.output import report
from labml_bn.cli.received import open_to_append
from labml_bn.records import notes
from labml_bn.records.folder import CHECKPOINTS, ENDS, LOG, NAME, ORDER, RESUMED, SWEEP, locked, next_order
from labml_bn.records.record import COMPLETED, CRASHED, DIVERGED, INTERRUPTED
from labml_bn.settings import as_typed, default, different
from labml_bn.training.labml_patches import add_to_info, create_experiment, keep_run_info, quiet, start_experiment
from labml_bn.training.log import Log, Position
from labml_bn.training.parts import Configs, placed

_PACKAGE = Path(__file__).parents[1]

_log = Log()


def prepare(
    settings: Mapping[str, Any], run: Path | None = None, model: Callable[[], nn.Module] | None = None
) -> Configs:
    """Set up labml's experiment and compute its parts, the images among them. Nothing of the run is written yet.

    `run` is the folder of a run to resume; without it a new run is started. `model` makes the network, if the settings
    do not. Raises UserError if the run would be in another folder than the logs.
    """
    logs_path = run.parent.parent if run else resolve_folder(settings.get("logs_path", default("logs_path")))
    if run is None:
        check_logs(logs_path)
    c = Configs()
    with quiet():
        lab.configure({"experiments_path": str(logs_path)})
        comment = " ".join(f"{key}={as_typed(value)}" for key, value in different(settings).items())
        arguments = {"comment": comment, "writers": set(), "python_file": __file__, "name": NAME}
        if run:
            arguments |= {"uuid": run.name, "name": run.parent.name}
        create_experiment(_PACKAGE, arguments)
        # Recorded relative to the run, so that commands in other working directories find it.
        data = resolve_folder(settings.get("data_path", default("data_path")), follow_links=False)
        c.data_folder = relative_path(data, experiment_singleton().run.run_path)
        experiment.configs(c, dict(settings))
        c.seed.set()
        if model is not None:
            c.model = placed(c, model())
        _ = c.train_set, c.valid_set, c.test_set, c.augmentation, c.model, c.optimizer, c.versions, c.data_folder
    return c


def check_logs(logs_path: Path) -> None:
    """Raise UserError if new runs would be in another folder than the logs, which someone else may have made."""
    if (logs_path / NAME).is_symlink():
        raise UserError(f"{logs_path / NAME} is a symbolic link, in which no run is started: choose another logs_path")


class NotBegunError(UserError):
    """A new run could not begin. Nothing of it is kept."""


class DivergedError(UserError):
    """The loss, a parameter or a running statistic became NaN or infinite."""


@contextlib.contextmanager
def recording(
    position: Position | None = None, sweep: str | None = None, written: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """Record the prepared experiment while the block runs. Gives the run's folder.

    A new run is part of the sweep of this name, if any, and `written` are its first notes (`records/notes.py`).
    A new run's lock is held for the same time, which tells others that it is running; that of a resumed one is held by
    the caller. A resumed run continues from `position`: later log entries are discarded. Raises UserError if the run
    cannot be written. If the block raises NotBegunError, the run's folder is deleted.
    """
    run = experiment_singleton().run
    with contextlib.ExitStack() as stack:
        try:
            run.make_path()
            if position:
                _resume(run)
            else:
                stack.enter_context(locked(run.run_path))
                order = next_order(run.to_dict(), run.run_path.parents[1])
                entries = {ORDER: order, SWEEP: sweep}
                add_to_info(run, {name: value for name, value in entries.items() if value is not None})
            start_experiment()
            if written:
                notes.write(run.run_path, written)
            _log.open(run.run_path / LOG, position or Position())
            stack.callback(_log.close)
        except OSError as error:
            if not position:
                shutil.rmtree(run.run_path, ignore_errors=True)
            raise UserError(
                f"cannot write the run to {run.run_path}, or labml's own folder to {Path.home()}: {error}"
            ) from error
        tracker_singleton().add_writer(_log)
        try:
            yield run.run_path
        except NotBegunError:
            shutil.rmtree(run.run_path, ignore_errors=True)
            raise
        except (KeyboardInterrupt, StoppedError):
            _finish(INTERRUPTED)
            raise
        except DivergedError as error:
            _finish(DIVERGED, str(error))
            raise
        except BaseException as error:
            _finish(CRASHED, str(error))
            raise
        else:
            _finish(COMPLETED)


def _resume(run: Any) -> None:
    """Prepare the folder of a run that is resumed."""
    for folder in (run.run_path, run.run_path / CHECKPOINTS):
        delete_leftovers(folder)  # of a process that was killed
    keep_run_info(run)
    with open_to_append(run.run_path / ENDS) as ends:
        ends.write((json.dumps({"status": RESUMED, "time": time.time()}) + "\n").encode())


def _finish(status: str, details: str | None = None) -> None:
    """Write the rest of the log, and how the run ended. If that fails, a completed run raises UserError."""
    try:
        experiment_singleton().finish(status, details)
    except OSError as error:
        message = f"cannot write the end of the log to {_log.path}: {reason(error)}"
        if status == COMPLETED:
            raise UserError(message) from error
        report(f"warning: {message}")


def flush() -> None:
    """Write the metrics that were logged since the last time. If that fails, print a warning; the next call retries."""
    try:
        _log.flush()
    except OSError as error:
        report(f"warning: cannot write the log {_log.path}: {reason(error)}")


def elapsed() -> float:
    """Seconds of training, without pauses."""
    return _log.elapsed


def position() -> Position:
    """The end of the log, once all of it is on the disk. Raises OSError if it cannot be written."""
    return _log.position()


class TrainingMetrics:
    """Loss and accuracy of the training batches, kept on their device until the next validation.

    Each `.item()` synchronizes a GPU, so they are transferred together, once per validation.
    """

    def __init__(self, state: Mapping[str, Any] | None = None, device: torch.device | None = None) -> None:
        self._batches: list[tuple[int, int, Tensor, Tensor]] = []
        if state:
            losses, correct = (state[name].to(device).unbind() for name in ("losses", "correct"))
            self._batches = list(zip(state["steps"], state["images"], losses, correct, strict=True))

    def state(self) -> dict[str, Any]:
        """The state from which `TrainingMetrics(state)` restores these metrics."""
        if not self._batches:
            return {}
        steps, images, losses, correct = zip(*self._batches, strict=True)
        return {
            "steps": list(steps),
            "images": list(images),
            "losses": torch.stack(losses).cpu(),
            "correct": torch.stack(correct).cpu(),
        }

    def add(self, step: int, images: int, loss: Tensor, correct: Tensor) -> None:
        """Add a batch of `images`: its mean loss and its number of correct predictions, both scalar tensors."""
        self._batches.append((step, images, loss, correct))

    def losses(self) -> list[float]:
        """The mean loss of each batch that was added since the last time."""
        return torch.stack([loss for *_, loss, _ in self._batches]).tolist() if self._batches else []

    def save(self) -> tuple[float, float]:
        """Log what was added since the last time, up to a non-finite loss. Returns its mean loss and its accuracy."""
        losses = list(itertools.takewhile(math.isfinite, self.losses()))
        batches, self._batches = self._batches[: len(losses)], []
        if not batches:
            return float("nan"), float("nan")
        steps, images, _, correct = zip(*batches, strict=True)
        for step, loss in zip(steps, losses, strict=True):
            tracker.save(step, {"loss.train": loss})
        mean_loss = sum(n * loss for n, loss in zip(images, losses, strict=True)) / sum(images)
        accuracy = int(torch.stack(correct).sum()) / sum(images)
        tracker.save(steps[-1], {"accuracy.train": accuracy})
        return mean_loss, accuracy


def save_evaluation(step: int, split: str, loss: float, accuracy: float) -> None:
    """Log an evaluation: `split` is `valid`, `held_out` or `test`."""
    tracker.save(step, {f"loss.{split}": loss, f"accuracy.{split}": accuracy})


def save_running_statistics(step: int, model: nn.Module) -> None:
    """Log the running mean and variance of every batch-normalization layer, per channel."""
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            tracker.add({f"bn.{name}.running_mean": layer.running_mean, f"bn.{name}.running_var": layer.running_var})
    tracker.save(step)
