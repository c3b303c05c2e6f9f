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
import errno
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from labml_bn.files import folder, sync
from labml_bn.run_folder import ENDS, LOG, NAME, RESUMED, locked
from labml_bn.settings import default, different


def prepare(settings: Mapping[str, Any], run: Path | None = None) -> Configs:
    """Set up labml's experiment and work out its parts, the images among them. Nothing of the run is written yet.

    `run` is the folder of a run that shall go on; without it there will be a new one.
    """
    logs_path = run.parent.parent if run else folder(settings.get("logs_path", default("logs_path")))
    c = Configs()
    with _quiet():
        lab.configure({"experiments_path": str(logs_path)})
        comment = " ".join(f"{key}={value}" for key, value in different(settings).items())
        arguments = {"comment": comment, "writers": set(), "python_file": __file__, "name": NAME}
        if run:
            arguments |= {"uuid": run.name, "name": run.parent.name}
        _create(arguments)
        experiment.configs(c, dict(settings))
        c.seed.set()
        _ = c.train_digits, c.valid_digits, c.model, c.optimizer, c.versions
    return c


def _create(arguments: dict[str, Any]) -> None:
    """Create the experiment, with the commit of this project's repository where it runs from one."""
    package = Path(__file__).parent
    try:
        lab.configure({"path": str(package.parent)})
        experiment.create(**arguments)
    except Exception:
        # A repository that git refuses to read, because it is somebody else's, say. GitPython's errors cannot be
        # named here: without a git on the machine it cannot be imported. Any other error comes up again at once.
        lab.configure({"path": str(package)})
        experiment.create(**arguments)


@dataclass(frozen=True)
class Position:
    """Where a log ends: after `size` bytes, written in `elapsed` seconds of training."""

    size: int = 0
    elapsed: float = 0.0


@contextlib.contextmanager
def recording(position: Position | None = None) -> Iterator[Path]:
    """Record the prepared experiment for as long as the block runs. Gives the run's folder.

    The run's lock is held for as long, so that others can tell that it is going on. A run that goes on does so from
    `position`: what its log has beyond that is taken away. Raises UserError where the run cannot be written.
    """
    run = experiment_singleton().run
    with contextlib.ExitStack() as stack:
        try:
            run.make_path()
            stack.enter_context(locked(run.run_path))
            if position:
                _take_up(run, position)
            # labml keeps a folder in the user's home, and two processes that start at once can trip over it.
            with _quiet(), FileLock(Path.home() / ".labml.lock", timeout=60):
                experiment.start()
        except OSError as error:
            if not position:
                shutil.rmtree(run.run_path, ignore_errors=True)
            raise UserError(
                f"cannot write the run to {run.run_path}, or labml's own folder to {Path.home()}: {error}"
            ) from error
        _log.open(run.run_path / LOG, position or Position())
        tracker_singleton().add_writer(_log)
        try:
            yield run.run_path
        except KeyboardInterrupt:
            _finish("interrupted")
            raise
        except BaseException as error:
            _finish("crashed", str(error))
            raise
        else:
            _finish("completed")


def _take_up(run: Any, position: Position) -> None:
    """Prepare the folder of a run that goes on."""
    os.truncate(run.run_path / LOG, position.size)
    for leftover in [*run.run_path.glob(".*.part.*"), *run.run_path.glob("*/.*.part.*")]:
        leftover.unlink()  # of a process that was killed
    run.pid_path.unlink(missing_ok=True)
    run.save_info = lambda: run.pid_path.write_text(str(run.pid))  # the rest is there, with the run's real start
    with (run.run_path / ENDS).open("a", encoding="utf-8") as ends:
        ends.write(json.dumps({"status": RESUMED, "time": time.time()}) + "\n")


def _finish(status: str, details: str | None = None) -> None:
    """Write the rest of the log, and how the run ended. Raises UserError where that fails, unless it failed anyway."""
    try:
        experiment_singleton().finish(status, details)
    except OSError as error:
        message = f"cannot write the end of the log to {_log.path}: {error.strerror or error}"
        if status == "completed":
            raise UserError(message) from error
        print(f"warning: {message}", file=sys.stderr)


def flush() -> None:
    """Write what has been logged since the last time, for whoever follows the run.

    Where that fails it is said, and tried again the next time.
    """
    try:
        _log.flush()
    except OSError as error:
        print(f"warning: cannot write the log {_log.path}: {error.strerror or error}", file=sys.stderr)


def elapsed() -> float:
    """Seconds of training, without pauses."""
    return _log.elapsed


def position() -> Position:
    """Where the log ends, when the disk has all of it. Raises OSError where it cannot be written."""
    return _log.position()


class _Log(Writer):  # type: ignore[misc]
    """The metrics' file, a JSON object a line: labml's format, written when it is told to.

    labml's own writer keeps up to a minute of metrics in memory, and writes them in a thread of its own. Besides
    labml's `track` and `time`, each line has in `elapsed` the seconds of training: clocks jump, and runs pause.
    """

    def __init__(self) -> None:
        self.path = Path(LOG)
        self._track: dict[str, list[tuple[int, list[float]]]] = {}
        self._start = 0.0

    def open(self, path: Path, position: Position) -> None:
        """Write to this file from now on."""
        self.path = path
        self._track = {}
        self._start = time.monotonic() - position.elapsed

    def write(self, *, global_step: int, indicators: Mapping[str, Indicator]) -> None:
        """Take what has been logged at a step. labml calls it."""
        for indicator in indicators.values():
            if not indicator.is_empty():
                points = self._track.setdefault(indicator.mean_key, [])
                points.append((global_step, to_numpy(indicator.get_all_values()).tolist()))

    def flush(self) -> None:
        """Append what has been taken as one line, or nothing where that fails. labml calls it at the end of a run."""
        if not self._track:
            return
        line = json.dumps({"track": self._track, "time": time.time(), "elapsed": self.elapsed}) + "\n"
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                written = file.write(line.encode())
                if written < len(line):  # the rest would have found no place
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(size)
                raise
        self._track = {}

    def position(self) -> Position:
        """Where the file ends, when the disk has it."""
        self.flush()
        self.path.touch()
        sync(self.path)
        return Position(self.path.stat().st_size, self.elapsed)

    @property
    def elapsed(self) -> float:
        """Seconds of training, without pauses."""
        return time.monotonic() - self._start


_log = _Log()


class TrainingMetrics:
    """Loss and accuracy of the training batches, kept on their device until the next validation.

    A number that crosses from a GPU makes the processor wait for it, so they cross together, a tenth of an epoch at
    a time.
    """

    def __init__(self, state: Mapping[str, Any] | None = None, device: torch.device | None = None) -> None:
        self._batches: list[tuple[int, int, Tensor, Tensor]] = []
        if state:
            losses, correct = (state[name].to(device).unbind() for name in ("losses", "correct"))
            self._batches = list(zip(state["steps"], state["images"], losses, correct, strict=True))

    def state(self) -> dict[str, Any]:
        """What `TrainingMetrics` makes the same of again."""
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
