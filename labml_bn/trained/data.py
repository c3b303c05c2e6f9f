"""Where the images of a run are.

A run's record of its data folder may have been made by someone else. So it is used only if it has the data set,
complete and verified: then nothing is written to it. What is downloaded goes where the command says, or to the default.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labml_bn.cli.files import relative_path, resolve_folder
from labml_bn.cli.output import report
from labml_bn.cli.received import read_yaml
from labml_bn.data.download import is_complete
from labml_bn.records.folder import CONFIGS, DATA_FOLDER
from labml_bn.settings import default


def find_data(run: Path, settings: Mapping[str, Any]) -> str:
    """The value of `data_path` for the data set in `settings`, those of `run`: the folder that the run used.

    If that does not have the data set, it is the default, and a line on standard error says so.
    """
    fallback: str = default("data_path")
    used = _recorded(run, settings["data_path"])
    if used is None or used == resolve_folder(fallback, follow_links=False):
        return fallback
    if is_complete(settings["dataset"], used):
        return relative_path(used)
    message = f"the data folder of {run} does not have {settings['dataset']} ({relative_path(used)}): using {fallback}"
    report(message)
    return fallback


def _recorded(run: Path, data_path: str) -> Path | None:
    """The absolute path of the folder that the run used: `data_path`, if that is absolute, or relative to the run."""
    if Path(data_path).is_absolute():
        return Path(os.path.normpath(data_path))
    recorded = read_yaml(run / CONFIGS).get(DATA_FOLDER)
    relative = recorded.get("computed") if isinstance(recorded, dict) else None
    return (
        Path(os.path.normpath(run.resolve() / relative)) if isinstance(relative, str) and "\0" not in relative else None
    )
