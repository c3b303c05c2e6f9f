"""The network of a run: its weights, with the settings that made them, in one file; or a checkpoint's."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from labml_bn.cli.errors import UserError, os_errors_as
from labml_bn.cli.files import replacing, resolve_folder
from labml_bn.cli.received import check_regular, parse_json
from labml_bn.data import mnist
from labml_bn.data.mnist import ImageSet
from labml_bn.models import ConvNet, choose_device
from labml_bn.records.folder import find_run, is_running, list_checkpoints
from labml_bn.records.saved import check_format, matching_architecture, read_settings
from labml_bn.settings import complete
from labml_bn.trained import checkpoints
from labml_bn.trained.data import find_data
from labml_bn.trained.network import check_network, evaluation_batch_size, make_network

#: The file in a run's folder.
WEIGHTS = "model.safetensors"

#: Distinguishes these files from others; it changes when their content does.
FORMAT = "labml_bn 1"

#: The dtypes of weights, running statistics and counts, in the words of safetensors.
DTYPES = {"F32", "F64", "I64"}


@dataclass(frozen=True)
class Trained:
    """A run's settings, and its network in evaluation mode on `device`.

    `run` is its folder, if the images may be read from the data folder that it used; else `data_path` is the user's.
    """

    settings: dict[str, Any]
    model: ConvNet
    device: torch.device
    run: Path | None = None

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return str(self.settings["dataset"])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights and of the images."""
        dtype: torch.dtype = getattr(torch, self.settings["dtype"])
        return dtype

    @cached_property
    def data_path(self) -> Path:
        """The absolute path of the folder of the data sets."""
        return resolve_folder(self.settings["data_path"] if self.run is None else find_data(self.run, self.settings))

    @property
    def batch_size(self) -> int:
        """How many images are evaluated at a time."""
        return evaluation_batch_size(self.settings)

    def train_set(self) -> ImageSet:
        """The images that it was trained on. Raises UserError if they cannot be obtained."""
        return self._load("train", self.settings["train_samples"])

    def test_set(self) -> ImageSet:
        """The test images, as many as its settings say. Raises UserError if they cannot be obtained."""
        return self._load("test", self.settings["valid_samples"])

    def _load(self, part: str, samples: int) -> ImageSet:
        return mnist.load(
            self.dataset,
            self.data_path,
            part,
            samples=samples,
            held_out=self.settings["held_out"],
            seed=self.settings["seed.seed"],
            device=self.device,
            dtype=self.dtype,
        )


def save_weights(path: Path, model: nn.Module, settings: Mapping[str, Any]) -> None:
    """Write the parameters and running statistics of `model` atomically. Raises UserError if that fails."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    written = json.dumps(dict(settings))
    metadata = {"format": FORMAT, "settings": written, "sha256": _digest(tensors, written)}
    with os_errors_as(f"cannot write the weights to {path}"), replacing(path) as part:
        part.write_bytes(save(tensors, metadata))


def load_run(
    name: str, logs: Path, data: str | None = None, checkpoint: str | None = None, **changes: Any
) -> tuple[str, Trained]:
    """The network of the run that `name` means, and in words which one it is: the run's folder, and the checkpoint.

    Without a `checkpoint`, `best` or `last`, it is that of a finished run. `data` is the folder of the data sets, if it
    is not the run's own. `changes` override settings. Raises UserError as `find_run` and `load_weights` do, and for a
    checkpoint that cannot be read.
    """
    if data is not None:
        changes["data_path"] = data
    if checkpoint is None:
        run = find_run(name, logs, _check_finished)
        return str(run), load_weights(run / WEIGHTS, **changes)
    if checkpoint == "best":
        run = find_run(name, logs, checkpoints.best)
        found = checkpoints.best(run)
    else:
        run = find_run(name, logs, checkpoints.check_saved)
        found = checkpoints.newest(run)
    found.report_complaints()
    seen = found.state["progress"]["seen"]
    trained = _network(found.path, run, found.state["settings"], found.state["model"], changes)
    return f"{run}, {checkpoint} checkpoint (after {seen:,} training images)", trained


def _check_finished(run: Path) -> None:
    """Raise UserError for a run that has no weights."""
    if not (run / WEIGHTS).is_file():
        state = "is still running" if is_running(run) else "has not finished"
        hint = " (--checkpoint last uses its last checkpoint)" if list_checkpoints(run) else ""
        raise UserError(f"{run} has no weights: the run {state}{hint}")


def load_weights(path: Path, **changes: Any) -> Trained:
    """The network that was saved to `path`, in the folder of its run, with its settings.

    `changes` override settings of the run, for example the device. Raises UserError, in one line, if the file cannot
    be read, is damaged, is not a run's, or does not match the architecture in its settings.
    """
    _check_finished(path.parent)
    check_regular(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
            shapes = {name: tensor.get_shape() for name, tensor in slices.items()}
            dtypes = {tensor.get_dtype() for tensor in slices.values()}
        check_format(path, metadata.get("format"), FORMAT)
        settings = complete(read_settings(path, _parsed(metadata.get("settings", ""))))
        if not dtypes <= DTYPES:
            raise UserError(f"{path} has weights of another dtype: {', '.join(sorted(dtypes - DTYPES))}")
        with matching_architecture(path):  # before the tensors are read, which may have any size
            check_network(settings, shapes)
        tensors = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read, or is damaged: {' '.join(str(error).split())}") from error
    if metadata.get("sha256") != _digest(tensors, metadata.get("settings", "")):
        raise UserError(f"{path} is damaged: checksum mismatch")
    return _network(path, path.parent, settings, tensors, changes)


def _network(
    path: Path, run: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], changes: Mapping[str, Any]
) -> Trained:
    """The network with these settings and `changes`, and the state in `tensors`, which was read from `path`."""
    settings = {**settings, **changes}
    device = choose_device(settings["device.use_cuda"], settings["device.cuda_device"])
    with matching_architecture(path):
        model = make_network(settings, tensors)
    trained = Trained(settings, model, device, None if "data_path" in changes else run)
    trained.model.to(device, trained.dtype).eval()
    return trained


def _digest(tensors: Mapping[str, Tensor], settings: str) -> str:
    """A checksum of the file's content: safetensors has none of its own."""
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _parsed(text: str) -> Any:
    """The value of a JSON text, or None if it is damaged."""
    try:
        return parse_json(text)
    except ValueError:
        return None
