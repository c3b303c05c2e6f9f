"""What is logged, and where: labml is met here.

A run is a folder `LOGS/batch_norm/UUID` with labml's files: `run.yaml` (when it was, and which code), `configs.yaml`,
`log.jsonl` (the metrics) and `run_log.jsonl` (how it ended). A metric's step is the number of training images seen.

| metric | what it is | when |
| --- | --- | --- |
| `loss.train` | the batch's mean loss | every batch |
| `accuracy.train` | over the batches since the last validation | every validation |
| `loss.valid`, `accuracy.valid` | over the next part of the test images | every validation |
| `loss.test`, `accuracy.test` | over all the test images | every epoch |
| `bn.LAYER.running_mean`, `bn.LAYER.running_var` | a value per channel (on dashboards: the mean) | every validation |
"""

import contextlib
import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from labml import experiment, lab, tracker
from labml.internal import util
from labml.internal.experiment import experiment_singleton
from labml.internal.tracker import tracker_singleton
from labml.internal.tracker.indicators import Indicator
from labml.internal.tracker.writers import Writer
from labml.internal.util.values import to_numpy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bn.configs import Configs
from labml_bn.errors import UserError
from labml_bn.files import folder
from labml_bn.run_folder import LOCK, LOG, NAME
from labml_bn.settings import default, different


def prepare(settings: Mapping[str, Any]) -> Configs:
    """Set up labml's experiment and work out its parts, the images among them. Nothing of the run is written yet."""
    logs_path = folder(settings.get("logs_path", default("logs_path")))
    c = Configs()
    with _quiet():
        lab.configure({"experiments_path": str(logs_path)})
        _create(comment=" ".join(f"{key}={value}" for key, value in different(settings).items()))
        experiment.configs(c, dict(settings))
        c.seed.set()
        _ = c.train_digits, c.valid_digits, c.model, c.optimizer, c.versions
    return c


def _create(comment: str) -> None:
    """Create the experiment, with the commit of this project's repository where it runs from one."""
    package = Path(__file__).parent
    try:
        lab.configure({"path": str(package.parent)})
        experiment.create(name=NAME, comment=comment, writers=set(), python_file=__file__)
    except Exception:
        # A repository that git refuses to read, because it is somebody else's, say. GitPython's errors cannot be
        # named here: without a git on the machine it cannot be imported. Any other error comes up again at once.
        lab.configure({"path": str(package)})
        experiment.create(name=NAME, comment=comment, writers=set(), python_file=__file__)


@contextlib.contextmanager
def recording() -> Iterator[Path]:
    """Record the prepared experiment for as long as the block runs. Gives the run's folder.

    The log is complete when the block has ended, however it ended. The run's lock is held for as long, so that others
    can tell that it is going on. Raises UserError where the run cannot be written.
    """
    run = experiment_singleton().run
    lock = FileLock(run.run_path / LOCK)
    try:
        # labml keeps a folder in the user's home, and two processes that start at once can trip over it.
        with _quiet(), FileLock(Path.home() / ".labml.lock", timeout=60):
            watcher = experiment.start()
        lock.acquire()
    except OSError as error:
        shutil.rmtree(run.run_path, ignore_errors=True)
        raise UserError(
            f"cannot write the run to {run.run_path}, or labml's own folder to {Path.home()}: {error}"
        ) from error
    _log.path = run.run_path / LOG
    tracker_singleton().add_writer(_log)
    try:
        with watcher:
            yield run.run_path
    finally:
        lock.release()


def flush() -> None:
    """Write what has been logged since the last time, for whoever follows the run."""
    _log.flush()


class _Log(Writer):  # type: ignore[misc]
    """The metrics' file, a JSON object a line: labml's format, written when it is told to.

    labml's own writer keeps up to a minute of metrics in memory, and writes them in a thread of its own.
    """

    path: Path

    def __init__(self) -> None:
        self._track: dict[str, list[tuple[int, list[float]]]] = {}

    def write(self, *, global_step: int, indicators: Mapping[str, Indicator]) -> None:
        """Take what has been logged at a step. labml calls it."""
        for indicator in indicators.values():
            if not indicator.is_empty():
                points = self._track.setdefault(indicator.mean_key, [])
                points.append((global_step, to_numpy(indicator.get_all_values()).tolist()))

    def flush(self) -> None:
        """Append what has been taken as one line. labml calls it at the end of a run."""
        if self._track:
            line = json.dumps({"track": self._track, "time": time.time()})
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            self._track = {}


_log = _Log()


class TrainingMetrics:
    """Loss and accuracy of the training batches, kept on their device until the next validation.

    A number that crosses from a GPU makes the processor wait for it, so they cross together, a tenth of an epoch at
    a time.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[int, int, Tensor, Tensor]] = []

    def add(self, step: int, images: int, loss: Tensor, correct: Tensor) -> None:
        """A batch of `images`, its mean loss and its number of correct answers, each a tensor of one number."""
        self._batches.append((step, images, loss, correct))

    def save(self) -> tuple[float, float]:
        """Log what has been added since the last time. Returns its mean loss and its accuracy."""
        if not self._batches:
            return float("nan"), float("nan")
        steps, images, losses, correct = zip(*self._batches, strict=True)
        self._batches = []
        loss_of_batch = torch.stack(losses).tolist()
        for step, loss in zip(steps, loss_of_batch, strict=True):
            tracker.save(step, {"loss.train": loss})
        mean_loss = sum(n * loss for n, loss in zip(images, loss_of_batch, strict=True)) / sum(images)
        accuracy = int(torch.stack(correct).sum()) / sum(images)
        tracker.save(steps[-1], {"accuracy.train": accuracy})
        return mean_loss, accuracy


def save_evaluation(step: int, split: str, loss: float, accuracy: float) -> None:
    """Log an evaluation: `split` is `valid` (a part of the test images) or `test` (all of them)."""
    tracker.save(step, {f"loss.{split}": loss, f"accuracy.{split}": accuracy})


def save_running_estimates(step: int, model: nn.Module) -> None:
    """Log the running mean and variance of every batch-normalization layer, a value per channel."""
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            tracker.add({f"bn.{name}.running_mean": layer.running_mean, f"bn.{name}.running_var": layer.running_var})
    tracker.save(step)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """labml greets with colours and carriage returns, also into a file; the command speaks for it.

    In a notebook it would greet in HTML, by an import that IPython no longer has, and look for the code's version where
    the notebook stands: it recognizes one by `get_ipython`, and here it shall not.
    """
    util.get_ipython = _not_in_a_notebook
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        del util.get_ipython


def _not_in_a_notebook() -> None:
    raise NameError("get_ipython")
