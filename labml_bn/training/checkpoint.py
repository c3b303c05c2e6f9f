"""Checkpoints: the complete state of a run, from which it is resumed as if it had never been interrupted.

A checkpoint is written atomically: temporary file, fsync, rename. It is a zip archive of PyTorch's, whose checksums
reveal damage, and it is loaded without executing code (`weights_only`).
"""

import random
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labml_bn.cli.errors import UsageError, UserError, reason
from labml_bn.cli.files import replacing, resolve_folder, sync
from labml_bn.records.folder import LOG
from labml_bn.records.saved import check_format, matching_architecture, read_settings
from labml_bn.settings import CHANGEABLE, check_together, complete
from labml_bn.training import tracking
from labml_bn.training.loop import Evaluation, Progress
from labml_bn.training.parts import Configs

#: The subfolder of a run's folder, and the names of the checkpoints in it.
CHECKPOINTS = "checkpoints"
FILES = f"{CHECKPOINTS}/[0-9]*.pt"

#: Distinguishes these files from others; it changes when their content does.
FORMAT = "labml_bn checkpoint 1"

State = dict[str, Any]


class Checkpoints:
    """Saves a run: the newest `keep` checkpoints, and the one with the best accuracy on all test images."""

    def __init__(self, run: Path, c: Configs, settings: Mapping[str, Any], resumed: State | None = None) -> None:
        self._folder = run / CHECKPOINTS
        self._c = c
        self._settings = complete(settings)
        self._best: State | None = resumed["best"] if resumed else None
        self._last_good = f"{resumed['progress']['seen']:012}.pt" if resumed else None

    def save(self, progress: Progress, test: Evaluation | None) -> bool:
        """Write a checkpoint. Returns whether that succeeded; if not, a warning is printed and training continues.

        `test` is the evaluation on all test images at this point, if there is one. Earlier checkpoints stay intact.
        """
        path = self._folder / f"{progress.seen:012}.pt"
        best = self._best
        if test is not None and (best is None or test.accuracy > best["accuracy"]):
            best = {"name": path.name, "accuracy": test.accuracy}
        try:
            state = {**capture(self._c, progress), "settings": self._settings, "best": best}
            if not self._folder.is_dir():
                self._folder.mkdir()
                sync(self._folder.parent)
            with replacing(path) as part:
                torch.save(state, part)
        except (OSError, RuntimeError) as error:  # PyTorch's writer raises RuntimeError
            why = reason(error) if isinstance(error, OSError) else str(error).splitlines()[0]
            print(f"warning: cannot save {path}: {why}. {self.last_good()}", file=sys.stderr)
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
            if other.name not in kept:
                try:
                    other.unlink(missing_ok=True)
                except OSError as error:
                    print(f"warning: cannot delete {other}: {reason(error)}", file=sys.stderr)

    def last_good(self) -> str:
        """The checkpoint that the run can be resumed from, in words."""
        return f"The last good checkpoint is {self._folder / self._last_good if self._last_good else 'none'}"


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, the latest first."""
    return sorted(run.glob(FILES), reverse=True)


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
        "data": str(resolve_folder(c.data_path)),
    }


def restore(c: Configs, state: State, run: Path) -> Progress:
    """Load the captured state of `run`. Raises UserError if it does not match the network of the run's settings."""
    with matching_architecture(f"the checkpoint of {run}"):
        c.model.load_state_dict(state["model"])
        c.optimizer.load_state_dict(state["optimizer"])
        _check_optimizer(c.optimizer)
        set_random_states(state["random"])
        metrics = tracking.TrainingMetrics(state["metrics"], c.device)
        return Progress(**state["progress"], metrics=metrics)


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError for a state of another shape than its parameter: PyTorch loads it without a check."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape != parameter.shape:
                raise ValueError(f"the optimizer's {name} has shape {list(value.shape)}")


@dataclass(frozen=True)
class Found:
    """The latest usable checkpoint, and what is wrong with later ones."""

    state: State
    complaints: list[str]


def newest(run: Path) -> Found:
    """The latest usable checkpoint of a run. Raises UserError if there is none."""
    complaints: list[str] = []
    for path in list_checkpoints(run):
        try:
            return Found(_usable(path, run / LOG), complaints)
        except UserError as error:
            complaints.append(str(error))
    why = "; ".join(complaints) or "it ended before the first was saved"
    raise UserError(f"{run} has no usable checkpoint to resume from: {why}")


def _usable(path: Path, log: Path) -> State:
    """The state saved at `path`. Raises UserError if it is damaged, has another format, or is ahead of the log."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch lets through whatever its parsers raise
        raise UserError(f"{path} is damaged or not a checkpoint: {' '.join(str(error).split())[:200]}") from error
    if damaged is not None:
        raise UserError(f"{path} is damaged: checksum mismatch in {damaged}")
    state: State = loaded if isinstance(loaded, dict) else {}
    check_format(path, state.get("format"), FORMAT)
    state["settings"] = complete(read_settings(path, state.get("settings")))
    try:
        size, finite = state["log"]["size"], all(tensor.isfinite().all() for tensor in state["model"].values())
    except (KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is incomplete: {error}") from error
    if not finite:
        raise UserError(f"{path} has non-finite values in its network")
    if not log.is_file() or log.stat().st_size < size:
        raise UserError(f"{log} is shorter than {path.name} expects")
    return state


def changed(state: State, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that is resumed with those `given`. Raises UsageError for what cannot change."""
    settings: dict[str, Any] = dict(state["settings"])
    for key, value in given.items():
        if key not in CHANGEABLE and value != settings[key]:
            raise UsageError(
                f"{key}={value} cannot be changed when resuming ({key} was {settings[key]}); only "
                + ", ".join(CHANGEABLE)
                + " can"
            )
    begun = state["progress"]["epoch"] + (state["progress"]["step"] > 0)
    if given.get("epochs", begun) < begun:
        raise UsageError(f"epochs={given['epochs']}: the run is already in epoch {begun}")
    if "data_path" not in given and Path(state["data"]).is_dir():
        settings["data_path"] = state["data"]  # whatever the working directory is now
    settings |= dict(given)
    check_together(settings)
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
    """Restore the states of `random_states`. Those of GPUs that no longer exist are ignored."""
    random.setstate(states["python"])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
