"""Checkpoints: the complete state of a run, from which it is resumed as if it had never been interrupted.

A checkpoint is written atomically: temporary file, fsync, rename. `trained/checkpoints.py` reads them.
"""

import io
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labml_bn.cli.errors import UsageError, UserError, reason
from labml_bn.cli.files import replacing, sync
from labml_bn.cli.output import report
from labml_bn.records.folder import CHECKPOINTS, LOG, list_checkpoints
from labml_bn.records.saved import matching_architecture
from labml_bn.settings import CHANGEABLE, as_typed, check_together, complete
from labml_bn.trained import checkpoints
from labml_bn.trained.checkpoints import FORMAT, Found, State, is_checkpoint
from labml_bn.trained.data import find_data
from labml_bn.trained.network import check_network, is_own
from labml_bn.training import tracking
from labml_bn.training.loop import Evaluation, Progress, make_schedule
from labml_bn.training.parts import Configs

#: The largest number of threads that a run is resumed with.
MOST_THREADS = 1024


class Checkpoints:
    """Saves a run: the newest `keep` checkpoints, and the best.

    That is the one with the best accuracy on all the held-out images or, without any, on all the test images.
    """

    def __init__(self, run: Path, c: Configs, settings: Mapping[str, Any], resumed: State | None = None) -> None:
        self._folder = run / CHECKPOINTS
        self._c = c
        self._settings = complete(settings)
        self._best: State | None = resumed["best"] if resumed else None
        self._last_good = f"{resumed['progress']['seen']:012}.pt" if resumed else None

    def save(self, progress: Progress, evaluation: Evaluation | None) -> bool:
        """Write a checkpoint. Returns whether that succeeded; if not, a warning is printed and training continues.

        `evaluation` is that on the images by which the best is chosen, if there is one at this point. Earlier
        checkpoints stay intact. Raises NotBegunError if there is none.
        """
        path = self._folder / f"{progress.seen:012}.pt"
        best = self._best
        if evaluation is not None and (best is None or evaluation.accuracy > best["accuracy"]):
            best = {"name": path.name, "accuracy": evaluation.accuracy}
        try:
            # Into memory first: of a file that cannot be written, PyTorch does not say why.
            content = io.BytesIO()
            torch.save({**capture(self._c, progress), "settings": self._settings, "best": best}, content)
            if not self._folder.is_dir():
                self._folder.mkdir()
                sync(self._folder.parent)
            with replacing(path) as part:
                part.write_bytes(content.getbuffer())
        except (OSError, MemoryError) as error:
            if self._last_good is None:
                raise tracking.NotBegunError(
                    f"cannot save the first checkpoint to {self._folder}: {reason(error)}. The run was not started, as "
                    "it could not be resumed: make room, or choose another folder (logs_path=DIR)"
                ) from error
            report(f"warning: cannot save {path}: {reason(error)}. {self.last_good()}")
            return False
        self._best, self._last_good = best, path.name
        self._delete_others(path)
        return True

    def _delete_others(self, path: Path) -> None:
        """Delete all but the newest and the best. Those later than `path` are of a future that will not happen."""
        saved = list_checkpoints(self._folder.parent)
        newest = [other.name for other in saved if other.name <= path.name][: self._c.keep]
        kept = {*newest, self._best["name"]} if self._best else {*newest}
        for other in saved:
            if other.name not in kept and is_checkpoint(other):
                try:
                    other.unlink(missing_ok=True)
                except OSError as error:
                    report(f"warning: cannot delete {other}: {reason(error)}")

    def last_good(self) -> str:
        """The checkpoint that the run can be resumed from, in words."""
        return f"The last good checkpoint is {self._folder / self._last_good if self._last_good else 'none'}"


def capture(c: Configs, progress: Progress) -> State:
    """The state of a run. Raises OSError if its log cannot be written first: a checkpoint records the log's length."""
    return {
        "format": FORMAT,
        "log": asdict(tracking.position()),
        "progress": {"epoch": progress.epoch, "step": progress.step, "seen": progress.seen},
        "metrics": progress.metrics.state(),
        "model": c.model.state_dict(),
        "optimizer": c.optimizer.state_dict(),
        "random": random_states(),
        "threads": torch.get_num_threads(),
    }


def restore(c: Configs, state: State, run: Path) -> Progress:
    """Load the captured state of `run`. Raises UserError if it does not match the settings, or is damaged."""
    with matching_architecture(f"the checkpoint of {run}"):
        c.model.load_state_dict(state["model"])
    try:
        _check_progress(c, state)
        _restore_optimizer(c.optimizer, state["optimizer"]["state"])
        set_random_states(state["random"])
        metrics = tracking.TrainingMetrics(state["metrics"], c.device)
    except Exception as error:  # whatever PyTorch and NumPy raise for a state that they have not saved
        raise UserError(f"the checkpoint of {run} is damaged: {' '.join(str(error).split())[:200]}") from error
    return Progress(**state["progress"], metrics=metrics)


def _check_progress(c: Configs, state: State) -> None:
    """Raise ValueError for a progress that is not one with these settings, or for metrics of other steps."""
    epoch, step, seen = (state["progress"][name] for name in ("epoch", "step", "seen"))
    images = len(c.train_set)
    if epoch > c.epochs or step >= make_schedule(c).steps or seen != epoch * images + step * c.train_batch_size:
        raise ValueError(f"{seen} images cannot have been seen after {epoch} epochs and {step} steps")
    metrics = state["metrics"]
    if metrics and metrics.keys() != {"steps", "images", "losses", "correct"}:
        raise ValueError("its metrics are not those of batches")
    if metrics and not all(
        type(number) is int and 0 < number <= seen for number in metrics["steps"] + metrics["images"]
    ):
        raise ValueError("its metrics are of other steps")
    for name in ("losses", "correct") if metrics else ():
        if metrics[name].shape != (len(metrics["steps"]),) or not metrics[name].isfinite().all():
            raise ValueError(f"its metrics have other {name}")


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[int, Any]) -> None:
    """Load the state of each parameter; what is set is set by the settings. Raises ValueError for another state.

    PyTorch itself checks neither shapes nor names.
    """
    groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimizer, torch.optim.Adam) else {"momentum_buffer"}
    if state and sorted(state) != list(range(len(parameters))):
        raise ValueError("the optimizer has other parameters")
    for number, values in state.items():
        if values.keys() != names:
            raise ValueError(f"the optimizer has {', '.join(values)}")
        for name, value in values.items():
            if value.shape != (() if name == "step" else parameters[number].shape) or not value.isfinite().all():
                raise ValueError(f"the optimizer's {name} has shape {list(value.shape)}, or non-finite values")
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def newest(run: Path) -> Found:
    """The latest checkpoint of a run that it can be resumed from. Raises UserError if there is none."""
    return checkpoints.newest(run, _check)


def _check(path: Path, state: State) -> None:
    """Raise UserError if the run's log does not reach as far as the checkpoint, or its threads are not a number."""
    log = path.parents[1] / LOG
    if not log.is_file() or log.stat().st_size < state["log"]["size"]:
        raise UserError(f"{log} is shorter than {path.name} expects")
    threads = state.get("threads", 1)
    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise UserError(f"{path} has an impossible number of threads: {str(threads)[:20]}")


def set_threads(state: State | None, run: Path | None) -> str:
    """Compute with as many threads as the run did, which decides the order of additions, and so the last bits.

    Returns `, with N threads` if these are others than PyTorch has chosen here, else nothing. If the number is unknown
    or cannot be set, a warning is printed.
    """
    chosen = torch.get_num_threads()
    saved = state.get("threads") if state else chosen
    if saved is not None:
        torch.set_num_threads(saved)  # also for a new run: PyTorch then no longer lets MKL use fewer
    if saved != torch.get_num_threads():
        had = "an unknown number of" if saved is None else saved
        warning = (
            f"warning: {run} was trained with {had} threads, and continues with {torch.get_num_threads()}: the results "
            "may differ in the last bits from those of an uninterrupted run"
        )
        report(warning)
    elif saved != chosen:
        return f", with {saved} thread{'s' if saved > 1 else ''} as before"
    return ""


def changed(run: Path, state: State, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `run`, resumed from `state` with those `given`. Raises UsageError for what cannot change."""
    settings: dict[str, Any] = dict(state["settings"])
    for key, value in given.items():
        if key not in CHANGEABLE and value != settings[key]:
            raise UsageError(
                f"{key}={as_typed(value)} cannot be changed when resuming ({key} was {as_typed(settings[key])}); only "
                + ", ".join(CHANGEABLE)
                + " can"
            )
    begun = state["progress"]["epoch"] + (state["progress"]["step"] > 0)
    if given.get("epochs", begun) < begun:
        raise UsageError(f"epochs={given['epochs']}: the run is already in epoch {begun}")
    if "data_path" not in given:
        settings["data_path"] = find_data(run, settings)
    settings |= dict(given)
    check_together(settings)
    if is_own(settings):
        return settings
    with matching_architecture(f"the checkpoint of {run}"):  # before a network of any size is made
        check_network(settings, {name: tensor.shape for name, tensor in state["model"].items()})
    return settings


def random_states() -> State:
    """The states of all random number generators that a run may use."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: State) -> None:
    """Restore the states of `random_states`. Those of GPUs that no longer exist are ignored.

    Raises whatever Python, NumPy and PyTorch do for a damaged state.
    """
    random.setstate(states["python"])
    name, keys, position, has_gauss, gauss = states["numpy"]
    if not 0 <= position <= len(keys):  # NumPy would read beyond them
        raise ValueError("NumPy's random state is damaged")
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
