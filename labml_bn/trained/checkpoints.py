"""Reading the checkpoints of a run, which `training/checkpoint.py` writes.

A checkpoint is a zip archive of PyTorch's, whose checksums reveal damage, and it is loaded without executing code
(`weights_only`). It may come from someone else, so its content is checked before it is used: types, sizes, names.
"""

import pickletools
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labml_bn.cli.errors import UserError
from labml_bn.cli.output import report
from labml_bn.cli.received import UnreadableError, check_regular, open_to_read
from labml_bn.records.folder import CHECKPOINT, list_checkpoints
from labml_bn.records.saved import check_format, read_settings
from labml_bn.settings import complete

#: Distinguishes these files from others; it changes when their content does.
FORMAT = "labml_bn checkpoint 1"

#: What a checkpoint's pickle names, as `pickletools` does.
_TYPE = re.compile(r"torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage|collections OrderedDict")

#: So many bytes at the beginning of the file contain it.
_HEADER = 512

State = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A usable checkpoint: its file, its content, and what is wrong with later ones."""

    path: Path
    state: State
    complaints: list[str]

    def report_complaints(self) -> None:
        """Print a warning for each later checkpoint."""
        for complaint in self.complaints:
            report(f"warning: {complaint}; falling back to an earlier checkpoint")


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
        check_regular(path)
        _check_archive(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        _check_plain(loaded, path.stat().st_size)
    except (MemoryError, UnreadableError):
        raise
    except Exception as error:  # torch lets through whatever its parsers raise
        raise UserError(f"{path} is damaged or not a checkpoint: {' '.join(str(error).split())[:200]}") from error
    state: State = loaded if isinstance(loaded, dict) else {}
    check_format(path, state.get("format"), FORMAT)
    state["settings"] = complete(read_settings(path, state.get("settings")))
    try:
        _check_content(state)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is incomplete or damaged: {error}") from error
    if not all(tensor.isfinite().all() for tensor in state["model"].values()):
        raise UserError(f"{path} has non-finite values in its network")
    return state


def is_checkpoint(path: Path) -> bool:
    """Whether this regular file begins as a checkpoint does."""
    try:
        with open_to_read(path, sys.maxsize) as file:
            return FORMAT.encode() in file.read(_HEADER)
    except (OSError, UserError):
        return False


def _check_archive(path: Path) -> None:
    """Raise ValueError for a checksum that does not match, and for contents that the archive has not stored as such."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its contents are compressed")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its contents are larger than the file")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"checksum mismatch in {damaged}")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                _check_types(archive.read(entry))


def _check_types(pickled: bytes) -> None:
    """Raise ValueError for a pickle that would create anything but tensors: PyTorch allows `bytearray(10**10)`."""
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name in {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}:
            raise ValueError("it is pickled in another way than PyTorch does")
        if operation.name == "GLOBAL" and not _TYPE.fullmatch(str(argument)):
            raise ValueError(f"it has a {argument}")


def _check_plain(state: Any, size: int) -> None:
    """Raise ValueError unless a state consists of numbers, texts, and tensors that fit into a file of `size` bytes.

    A tensor can claim more values than it has, and a list can be in many others: neither is followed twice.
    """
    visited: set[int] = set()
    left, waiting = size, [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if type(value) is not Tensor or value.layout != torch.strided or value.device.type != "cpu":
                raise ValueError("it has a tensor of another kind")
            left -= value.numel() * value.element_size()
            if left < 0:
                raise ValueError("it has tensors that are larger than the file")
        elif isinstance(value, dict | list | tuple):
            if id(value) not in visited:
                visited.add(id(value))
                waiting += [*value.keys(), *value.values()] if isinstance(value, dict) else value
        elif value is not None and not isinstance(value, bool | int | float | str):
            raise ValueError(f"it has a {type(value).__name__}")


def _check_content(state: State) -> None:
    """Raise KeyError, AttributeError, TypeError or ValueError for a state that no run has saved."""
    progress, log, best = state["progress"], state["log"], state["best"]
    counts = [progress["epoch"], progress["step"], progress["seen"], log["size"]]
    if progress.keys() != {"epoch", "step", "seen"} or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("its progress is not one of a run")
    if log.keys() != {"size", "elapsed"} or not 0 <= float(log["elapsed"]) < 1e15:
        raise ValueError("its log's length is not one of a run")
    if best is not None and not (CHECKPOINT.fullmatch(best["name"]) and 0 <= best["accuracy"] <= 1):
        raise ValueError("its best checkpoint is not one of a run")
    if not all(type(state[name]) is dict for name in ("metrics", "optimizer", "random")):
        raise ValueError("it lacks the state of a run")
    for name, tensor in state["model"].items():
        if not isinstance(name, str) or not (tensor.is_floating_point() or tensor.dtype == torch.int64):
            raise ValueError("its network has values that are not numbers")
