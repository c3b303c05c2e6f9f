"""One run, from its settings or its latest checkpoint to its weights."""

import contextlib
import math
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labml_bn.cli.errors import StoppedError, UsageError, UserError, exit_status
from labml_bn.cli.files import relative_path, resolve_folder
from labml_bn.cli.output import report
from labml_bn.cli.received import read_yaml
from labml_bn.cli.text import printable
from labml_bn.dashboard import address
from labml_bn.models import choose_device
from labml_bn.norm.kernels.loading import load
from labml_bn.records import notes
from labml_bn.records.folder import CONFIGS, check_files, find_run, locked
from labml_bn.settings import PATHS, complete, default, from_labml
from labml_bn.trained.checkpoints import check_saved
from labml_bn.trained.data import find_data
from labml_bn.trained.network import is_own, own
from labml_bn.trained.weights import WEIGHTS, save_weights
from labml_bn.training import checkpoint, loop, tracking
from labml_bn.training.console import Console
from labml_bn.training.cores import SharedCores
from labml_bn.training.forward import check_compiler
from labml_bn.training.log import Position
from labml_bn.training.memory import keep_freed_memory
from labml_bn.training.stopping import Stop, deferred_signals


@dataclass(frozen=True)
class Finished:
    """A run that has completed its last epoch.

    `test` is the last evaluation on all test images, None if all epochs were done before; `guesses` is whether it is no
    better than always giving the same answer. `elapsed` are the seconds of training, without pauses.
    """

    folder: Path
    test: loop.Evaluation | None
    guesses: bool
    elapsed: float


#: What shows the progress of a run: made from its epochs, its images in an epoch, its batch size and the images seen.
Show = Callable[[int, int, int, int], "contextlib.AbstractContextManager[loop.Watcher]"]

#: What makes a network [batch, 1, 28, 28] to [batch, 10] that is not the settings' own, once the seed is set.
Make = Callable[[], nn.Module]


def start(
    settings: Mapping[str, Any],
    *,
    sweep: str | None = None,
    written: Mapping[str, Any] | None = None,
    show: Show = Console,
    model: Make | None = None,
) -> Finished:
    """Train a new run, as part of the sweep of this name, if any; `written` are its first notes (`records/notes.py`).

    `model` makes its network, if that is the caller's own. The setting `network` then has a name for it, by which its
    runs differ from others; its settings cannot make the network again, so it is evaluated and resumed from Python.
    Raises UserError if it cannot, StoppedError if a signal ends it.
    """
    notes.check(written or {})
    return _train(settings, sweep=sweep, written=written, show=show, model=model)


def settings_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the run that `name` means, for a new run, overridden by those `given`; prints which run it is.

    The data folder is the one that it used, if that has the data set. Raises UsageError or UserError for a run whose
    settings cannot be read. Whether they are allowed together is not checked.
    """
    logs = relative_path(resolve_folder(given.get("logs_path", default("logs_path"))))
    run = find_run(name, Path(logs))
    try:
        recorded = from_labml(read_yaml(run / CONFIGS))
    except UsageError as error:
        raise UsageError(f"{run / CONFIGS}: {error}") from error
    if not recorded:
        raise UserError(f"{run / CONFIGS} has no settings: it is damaged")
    report(f"settings of {run}")  # not on standard output, which has the commands of --dry-run
    settings = {**{key: value for key, value in recorded.items() if key not in PATHS}, **given}
    if "data_path" not in given:
        settings["data_path"] = find_data(run, complete({**recorded, **given}))
    return settings


def resume(name: str, given: dict[str, Any], *, show: Show = Console, model: Make | None = None) -> Finished | None:
    """Resume the run that `name` means, with the settings `given`. Returns None if it was already finished.

    `model` makes its network, as in `start`. `latest` is the newest with something left to do, if there is one.
    Raises UsageError for a setting that cannot change, UserError without a usable checkpoint or if the run is in use.
    """
    logs = resolve_folder(given.pop("logs_path", default("logs_path")))

    def check(run: Path) -> None:
        check_saved(run)
        if "epochs" not in given and (run / WEIGHTS).is_file():
            raise UserError(f"{run} has completed its epochs")

    try:
        run = find_run(name, logs, check).resolve()
    except UserError:  # none has anything left to do
        run = find_run(name, logs, check_saved).resolve()
    check_files(run)
    with locked(run):
        found = checkpoint.newest(run)
        found.report_complaints()
        settings = checkpoint.changed(run, found.state, given)
        if found.state["progress"]["epoch"] == settings["epochs"] and (run / WEIGHTS).is_file():
            print(printable(f"{relative_path(run)} had already completed its epochs (epochs=N trains up to N)"))
            return None
        return _train(settings, run, found.state, show=show, model=model)


def _train(
    settings: Mapping[str, Any],
    run: Path | None = None,
    state: dict[str, Any] | None = None,
    *,
    sweep: str | None = None,
    written: Mapping[str, Any] | None = None,
    show: Show,
    model: Make | None = None,
) -> Finished:
    if (model is None) == is_own(settings):
        raise UsageError(own(settings) if model is None else "network=NAME must name the network that `model` makes")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    as_before = checkpoint.set_threads(state, run)
    values = complete(settings)
    if values["compile"]:
        check_compiler(choose_device(values["device.use_cuda"], values["device.cuda_device"]))
    keep_freed_memory()
    c = tracking.prepare(settings, run, model)
    if c.device.type == "cuda":
        torch.use_deterministic_algorithms(True)  # two runs with the same seed agree to the last bit
    with deferred_signals():  # Numba's loader calls Python code, in which Python would ignore an interrupt
        load(c.device.type)  # as another import, not in the first step
    progress = checkpoint.restore(c, state, run) if run and state else loop.Progress()
    held_out = f", validated on the {c.held_out} held out" if c.held_out else ""
    print(f"{c.dataset}, {c.train_set}{held_out}, norm={c.norm}, on {c.device}", flush=True)
    if run and progress.epoch < c.epochs:
        steps = loop.make_schedule(c).steps
        place = f"epoch {progress.epoch + 1} of {c.epochs}, at step {progress.step + 1} of {steps}"
        print(f"Resuming in {place}{as_before}", flush=True)
    position = Position(**state["log"]) if state else None
    with tracking.recording(position, sweep, written) as folder:
        link = address.link(folder.parent.parent, f"run/{address.run_id(folder.name)}")
        if link is not None:
            print(f"Watch it: {link}", flush=True)
        checkpoints = checkpoint.Checkpoints(folder, c, settings, state)
        try:
            with Stop() as stop, SharedCores():
                # A checkpoint before the first batch makes the run resumable, with its present settings, even if it is
                # killed early. The weights of a finished run that is resumed are no longer its last ones.
                if checkpoints.save(progress, None) and progress.epoch < c.epochs:
                    (folder / WEIGHTS).unlink(missing_ok=True)
                with show(c.epochs, len(c.train_set), c.train_batch_size, progress.seen) as watcher:
                    test = loop.train(c, watcher, progress, checkpoints.save, stop)
                if test is None:  # it was interrupted after its last epoch
                    test = loop.evaluate(c.model, c.test_set.batches(c.valid_batch_size))
                save_weights(folder / WEIGHTS, c.model, complete(settings))
        except KeyboardInterrupt as interrupt:
            command = f"python -m labml_bn.train --resume {shlex.quote(os.path.relpath(folder))}"
            raise StoppedError(f"resume with: {command}", exit_status(interrupt)) from None
        except tracking.DivergedError as error:
            raise tracking.DivergedError(
                f"{error}. {checkpoints.last_good()}; a new run may do better with a lower optimizer.learning_rate"
            ) from error
        guesses = test is not None and is_guessing(test.accuracy, c.test_set.labels)
        return Finished(folder, test, guesses, tracking.elapsed())


def is_guessing(accuracy: float, labels: Tensor) -> bool:
    """Whether an accuracy on images with these labels is no better than giving the commonest class as every answer.

    Better is what exceeds its share by three standard errors. So few images that none could are not judged.
    """
    share = labels.bincount().max().item() / len(labels)
    limit = share + 3 * math.sqrt(share * (1 - share) / len(labels))
    return accuracy <= limit < 1
