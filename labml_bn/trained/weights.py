"""The weights of a run, with the settings that made them, in one file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from labml_bn.cli.errors import UserError, os_errors_as
from labml_bn.cli.files import replacing, resolve_folder
from labml_bn.data import mnist
from labml_bn.data.mnist import ImageSet
from labml_bn.models import ConvNet, choose_device
from labml_bn.records.folder import find_run
from labml_bn.records.saved import check_format, matching_architecture, read_settings
from labml_bn.settings import complete, parsed_layers, training_images

#: The file in a run's folder.
WEIGHTS = "model.safetensors"

#: Distinguishes these files from others; it changes when their content does.
FORMAT = "labml_bn 1"


@dataclass(frozen=True)
class Trained:
    """A finished run: its settings, and its network in evaluation mode on `device`."""

    settings: dict[str, Any]
    model: ConvNet
    device: torch.device

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return str(self.settings["dataset"])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights and of the images."""
        dtype: torch.dtype = getattr(torch, self.settings["dtype"])
        return dtype

    def train_set(self) -> ImageSet:
        """The images that it was trained on. Raises UserError if they cannot be obtained."""
        samples = training_images(self.settings["train_samples"], self.settings["held_out"])
        return self._load(train=True, samples=samples)

    def valid_set(self) -> ImageSet:
        """The test images, as many as its settings say. Raises UserError if they cannot be obtained."""
        return self._load(train=False, samples=self.settings["valid_samples"])

    def _load(self, *, train: bool, samples: int) -> ImageSet:
        data_path = resolve_folder(self.settings["data_path"])
        return mnist.load(self.dataset, data_path, train=train, samples=samples, device=self.device, dtype=self.dtype)


def save_weights(path: Path, model: nn.Module, settings: Mapping[str, Any]) -> None:
    """Write the parameters and running statistics of `model` atomically. Raises UserError if that fails."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    written = json.dumps(dict(settings))
    metadata = {"format": FORMAT, "settings": written, "sha256": _digest(tensors, written)}
    with os_errors_as(f"cannot write the weights to {path}"), replacing(path) as part:
        part.write_bytes(save(tensors, metadata))


def load_run(name: str, logs: Path, data: str | None = None, **changes: Any) -> tuple[Path, Trained]:
    """The folder of the finished run that `name` means, and its network.

    `data` is the folder of the data sets, if it is not the run's own. Raises UserError as `find_run` and
    `load_weights` do.
    """
    run = find_run(name, logs, having=WEIGHTS)
    if data is not None:
        changes["data_path"] = data
    return run, load_weights(run / WEIGHTS, **changes)


def load_weights(path: Path, **changes: Any) -> Trained:
    """The network that was saved to `path`, with its settings.

    `changes` override settings of the run, for example the device. Raises UserError, in one line, if the file cannot
    be read, is damaged, is not a run's, or does not match the architecture in its settings.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} has no weights: the run has not finished")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read, or is damaged: {' '.join(str(error).split())}") from error
    check_format(path, metadata.get("format"), FORMAT)
    if metadata.get("sha256") != _digest(tensors, metadata.get("settings", "")):
        raise UserError(f"{path} is damaged: checksum mismatch")
    settings = complete(read_settings(path, _parsed(metadata.get("settings", ""))) | changes)
    device = choose_device(settings["device.use_cuda"], settings["device.cuda_device"])
    trained = Trained(settings, ConvNet(settings["norm"], parsed_layers(settings["layers"])), device)
    trained.model.to(device, trained.dtype)
    with matching_architecture(path):
        trained.model.load_state_dict(tensors)
    trained.model.eval()
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
        return json.loads(text)
    except ValueError:
        return None
