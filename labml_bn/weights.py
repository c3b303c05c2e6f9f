"""The weights of a run, with the settings that made them, in one file."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save
from torch import Tensor, nn

from labml_bn.configs import Configs, configure
from labml_bn.errors import UsageError, UserError
from labml_bn.files import replacing
from labml_bn.run_folder import find_run
from labml_bn.settings import from_record

#: The file in a run's folder.
WEIGHTS = "model.safetensors"

#: Tells our files from others; it changes when what is in them does.
FORMAT = "labml_bn 1"


def save_weights(path: Path, model: nn.Module, settings: Mapping[str, Any]) -> None:
    """Write the parameters and estimates of `model`, whole or not at all. Raises UserError where that fails."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    written = json.dumps(dict(settings))
    metadata = {"format": FORMAT, "settings": written, "sha256": _digest(tensors, written)}
    try:
        with replacing(path) as part:
            part.write_bytes(save(tensors, metadata))
    except OSError as error:
        raise UserError(f"cannot write the weights to {path}: {error.strerror or error}") from error


def load_run(name: str, logs: Path, data: str | None = None, **changes: Any) -> tuple[Path, Configs]:
    """The folder of the finished run that `name` means, and its configuration with the trained network.

    `data` is the folder of the data sets, if not the run's own. Raises UserError as `find_run` and `load_weights` do.
    """
    run = find_run(name, logs, having=WEIGHTS)
    if data is not None:
        changes["data_path"] = data
    return run, load_weights(run / WEIGHTS, **changes)


def load_weights(path: Path, **changes: Any) -> Configs:
    """The configuration that was saved to `path`, with its trained network as `model`, in evaluation.

    `changes` are settings that are not the run's, such as another device. Raises UserError, in one line, where the
    file cannot be read, is damaged, is not a run's, or does not fit the network that its settings make.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} has no weights: the run has not finished")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read, or is damaged: {' '.join(str(error).split())}") from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} was not written by this version of labml_bn: its weights cannot be loaded")
    if metadata.get("sha256") != _digest(tensors, metadata.get("settings", "")):
        raise UserError(f"{path} is damaged: its weights are not those that were saved")
    try:
        settings = from_record(json.loads(metadata["settings"]))
    except (KeyError, ValueError, AttributeError, UsageError) as error:
        raise UserError(f"{path} has settings that this version does not know: {error}") from error
    c = configure(settings | changes)
    try:
        c.model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} is of another network than its settings say: {reason}") from error
    c.model.eval()
    return c


def _digest(tensors: Mapping[str, Tensor], settings: str) -> str:
    """A checksum of the file's content: safetensors has none of its own."""
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
