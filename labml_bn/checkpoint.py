"""All that a training needs to go on as if nothing had happened, in files of the run's folder.

A checkpoint is written whole or not at all: to another name first, which the disk has when it gets its own. It is a
zip archive of PyTorch's, whose checksums tell a damaged one, and it is read without running code.
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

from labml_bn import tracking
from labml_bn.configs import Configs
from labml_bn.errors import UsageError, UserError
from labml_bn.files import folder, replacing, sync
from labml_bn.run_folder import LOG
from labml_bn.settings import CHANGEABLE, check_together, complete, from_record
from labml_bn.training import Evaluation, Progress

#: The folder of the checkpoints in a run's folder, and what they are called.
FOLDER = "checkpoints"
FILES = f"{FOLDER}/[0-9]*.pt"

#: Tells our files from others; it changes when what is in them does.
FORMAT = "labml_bn checkpoint 1"

State = dict[str, Any]


class Checkpoints:
    """Saves a run: the newest `keep` checkpoints, and the one with the best accuracy on all test images."""

    def __init__(self, run: Path, c: Configs, settings: Mapping[str, Any], resumed: State | None = None) -> None:
        self._folder = run / FOLDER
        self._c = c
        self._settings = complete(settings)
        self._best: State | None = resumed["best"] if resumed else None
        self._last_good = f"{resumed['progress']['seen']:012}.pt" if resumed else None

    def save(self, progress: Progress, test: Evaluation | None) -> bool:
        """Write a checkpoint; `test` is an evaluation over all test images, where there has just been one.

        Where that fails it is said, and the training goes on; the checkpoints before are as they were. Returns whether
        it was written.
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
        except (OSError, RuntimeError) as error:  # PyTorch's writer has errors of its own
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            print(f"warning: cannot save {path}: {reason}. {self.last_good()}", file=sys.stderr)
            return False
        self._best, self._last_good = best, path.name
        self._delete_others(path)
        return True

    def _delete_others(self, path: Path) -> None:
        """Keep what is to be kept. A checkpoint after this one is of a future that will be another."""
        saved = names(self._folder)
        newest = [other.name for other in saved if other.name <= path.name][: self._c.keep]
        kept = {*newest, self._best["name"]} if self._best else {*newest}
        for other in saved:
            if other.name not in kept:
                try:
                    other.unlink(missing_ok=True)
                except OSError as error:
                    print(f"warning: cannot delete {other}: {error.strerror or error}", file=sys.stderr)

    def last_good(self) -> str:
        """Which checkpoint the run can go on from, in words."""
        return f"The last good checkpoint is {self._folder / self._last_good if self._last_good else 'none'}"


def names(folder: Path) -> list[Path]:
    """The checkpoints in a folder, those first that saw the most images."""
    return sorted(folder.glob("[0-9]*.pt"), reverse=True)


def capture(c: Configs, progress: Progress) -> State:
    """The state of a training. Raises OSError where its log cannot be written first: a checkpoint covers the log."""
    return {
        "format": FORMAT,
        "log": asdict(tracking.position()),
        "progress": {"epoch": progress.epoch, "step": progress.step, "seen": progress.seen},
        "metrics": progress.metrics.state(),
        "model": c.model.state_dict(),
        "optimizer": c.optimizer.state_dict(),
        "random": random_states(),
        "data": str(folder(c.data_path)),
    }


def restore(c: Configs, state: State) -> Progress:
    """Put a training into a state that was captured. Raises UserError where it is of another network."""
    try:
        c.model.load_state_dict(state["model"])
        c.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in c.optimizer.state.items():
            for name, moment in moments.items():
                if isinstance(moment, torch.Tensor) and moment.dim() > 0 and moment.shape != parameter.shape:
                    raise ValueError(f"the optimizer's {name} has shape {list(moment.shape)}")
        set_random_states(state["random"])
        return Progress(**state["progress"], metrics=tracking.TrainingMetrics(state["metrics"], c.device))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"the checkpoint is of another network than its settings say: {reason}") from error


@dataclass(frozen=True)
class Found:
    """A checkpoint that can be gone on from, and what is wrong with those after it."""

    state: State
    complaints: list[str]


def newest(run: Path) -> Found:
    """The newest checkpoint of a run that can be used. Raises UserError where there is none."""
    complaints: list[str] = []
    for path in names(run / FOLDER):
        try:
            return Found(_usable(path, run / LOG), complaints)
        except UserError as error:
            complaints.append(str(error))
    reason = "; ".join(complaints) or "it ended before the first was saved"
    raise UserError(f"{run} has no checkpoint to go on from: {reason}")


def _usable(path: Path, log: Path) -> State:
    """What was saved at `path`. Raises UserError where it is damaged, not ours, or ahead of the log."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its parsers come upon
        raise UserError(f"{path} is damaged, or no checkpoint: {' '.join(str(error).split())[:200]}") from error
    if damaged is not None:
        raise UserError(f"{path} is damaged: {damaged} is not as it was saved")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} was not written by this version of labml_bn")
    try:
        state["settings"] = complete(from_record(state["settings"]))
        size, finite = state["log"]["size"], all(tensor.isfinite().all() for tensor in state["model"].values())
    except (KeyError, AttributeError, TypeError, UsageError) as error:
        raise UserError(f"{path} has settings or parts that this version does not know: {error}") from error
    if not finite:
        raise UserError(f"{path} has numbers that are none in its network")
    if not log.is_file() or log.stat().st_size < size:
        raise UserError(f"{log} has lost metrics that {path.name} covers")
    return state


def changed(state: State, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that goes on with what was `given` for it. Raises UsageError for what cannot change."""
    settings: dict[str, Any] = state["settings"]
    for key, value in given.items():
        if key not in CHANGEABLE and value != settings[key]:
            raise UsageError(
                f"{key}={value} would make it another run ({key} was {settings[key]}); what can change is "
                + ", ".join(CHANGEABLE)
            )
    begun = state["progress"]["epoch"] + (state["progress"]["step"] > 0)
    if given.get("epochs", begun) < begun:
        raise UsageError(f"epochs={given['epochs']}: the run is in its epoch {begun} already")
    if "data_path" not in given and Path(state["data"]).is_dir():
        settings["data_path"] = state["data"]  # wherever one stands now
    settings |= dict(given)
    check_together(settings)
    return settings


def random_states() -> State:
    """The states of all generators of random numbers that a training may draw from."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: State) -> None:
    """Go on drawing where `random_states` was called. GPUs that are not there any more are left out."""
    random.setstate(states["python"])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
