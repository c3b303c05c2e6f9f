"""Reading the checkpoints of a run, which `training/checkpoint.py` writes.

A checkpoint is a zip archive of PyTorch's, whose checksums reveal damage, and it is loaded without executing code
(`weights_only`).
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from labml_bn.cli.errors import UserError
from labml_bn.records.folder import list_checkpoints
from labml_bn.records.saved import check_format, read_settings
from labml_bn.settings import complete

#: Distinguishes these files from others; it changes when their content does.
FORMAT = "labml_bn checkpoint 1"

State = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A usable checkpoint: its file, its content, and what is wrong with later ones."""

    path: Path
    state: State
    complaints: list[str]


def check_saved(run: Path) -> None:
    """Raise UserError if a run has no checkpoint, damaged or not."""
    if not list_checkpoints(run):
        raise UserError(f"{run} has no usable checkpoint: none was saved")


def newest(run: Path, check: Callable[[Path, State], None] = lambda path, state: None) -> Found:
    """The latest usable checkpoint of a run, for which `check` does not raise either.

    Raises UserError if there is none.
    """
    check_saved(run)
    complaints: list[str] = []
    for path in list_checkpoints(run):
        try:
            state = read(path)
            check(path, state)
        except UserError as error:
            complaints.append(str(error))
        else:
            return Found(path, state, complaints)
    raise UserError(f"{run} has no usable checkpoint: {'; '.join(complaints)}")


def best(run: Path) -> Found:
    """The checkpoint with the best accuracy. Raises UserError if no epoch was completed, or if it cannot be read."""
    latest = newest(run)
    chosen = latest.state["best"]
    if chosen is None:
        raise UserError(f"{run} has no best checkpoint: its first epoch was not completed (--checkpoint last uses it)")
    path = latest.path.with_name(chosen["name"])
    return Found(path, read(path), latest.complaints)


def read(path: Path) -> State:
    """The state saved at `path`, on the CPU; its `settings` have every key.

    Raises UserError if the file is damaged, has another format, or has non-finite values in its network.
    """
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
        _ = state["log"]["size"], state["progress"]["seen"], state["best"]
        finite = all(tensor.isfinite().all() for tensor in state["model"].values())
    except (KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is incomplete: {error}") from error
    if not finite:
        raise UserError(f"{path} has non-finite values in its network")
    return state
