"""The weights of a run, with the settings that made them, in one file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save
from torch import nn

from labml_bn.configs import Configs, checked, configure
from labml_bn.errors import UsageError, UserError

#: The file in a run's folder.
WEIGHTS = "model.safetensors"

#: Tells our files from others; it changes when what is in them does.
FORMAT = "labml_bn 1"


def save_weights(path: Path, model: nn.Module, settings: Mapping[str, Any]) -> None:
    """Write the parameters and estimates of `model`, whole or not at all. Raises UserError where that fails."""
    part = path.with_name(f".{path.name}.part")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    try:
        part.write_bytes(save(tensors, metadata={"format": FORMAT, "settings": json.dumps(dict(settings))}))
        part.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot write the weights to {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def load_weights(path: Path, **changes: Any) -> Configs:
    """The configuration of a finished run, with its trained network as `model`, in evaluation.

    `changes` are settings that are not the run's, such as another `data_path`. Raises UserError, in one line, where
    the file cannot be read, is damaged, is not a run's, or does not fit the network that its settings make.
    """
    if not path.exists():
        raise UserError(f"{path.parent} has no weights: the run has not finished")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise UserError(f"{path} was not written by this version of labml_bn: its weights cannot be loaded")
        settings = checked(json.loads(metadata["settings"]))
        c = configure(settings | changes)
        c.model.load_state_dict(load_file(path, device=str(c.device)))
    except (OSError, safetensors.SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read, or is damaged: {' '.join(str(error).split())}") from error
    except UsageError as error:
        raise UserError(f"{path} has settings of another version: {error}") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} is of another network than its settings say: {reason}") from error
    c.model.eval()
    return c
