"""Reading settings: from config files, from labml's record of a run, and from the words of the command line."""

import contextlib
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from labml_bn.cli.errors import UsageError, reason
from labml_bn.cli.received import LIMIT, parse_yaml
from labml_bn.settings.checking import checked, full_key
from labml_bn.settings.keys import KEYS, PATHS

#: The config files of this project: beside the package in a repository, inside it if it was installed from a wheel.
_PACKAGE = Path(__file__).parents[1]
CONFIGS = next((path for path in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if path.is_dir()), _PACKAGE)


def from_record(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run has saved, checked as if they came from a config file. Raises UsageError."""
    return {key: checked(key, value) for key, value in settings.items()}


def from_labml(configs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in labml's record of a run: of each key the given value (`value`), or else the computed one.

    Raises UsageError for a given value that is not allowed. Keys that are missing are left out, as are others: labml
    also records the parts that are computed from the settings.
    """
    settings: dict[str, Any] = {}
    for key, entry in configs.items():
        if key in KEYS and isinstance(entry, dict):
            if entry.get("value") is not None:
                settings[key] = checked(key, entry["value"])
            else:
                with contextlib.suppress(UsageError):  # it was not computed, or to an object: the optimizer
                    settings[key] = checked(key, entry.get("computed"))
    return settings


def config_file(name: str) -> Path:
    """The file that a user means: a path, or else one of this project's config files by its name."""
    packaged = CONFIGS / f"{_config_name(name)}.yaml"
    is_name = Path(name).name == name and Path(name).suffix == ""
    return packaged if is_name and not Path(name).exists() and packaged.is_file() else Path(name)


def _config_name(name: str) -> str:
    """The name of a config file of this project in its usual spelling: `no_norm` for `configs/No-Norm.yml`."""
    return Path(name).stem.lower().replace("-", "_")


def _hint(path: Path) -> str:
    """What a user may have meant by the name of a file that cannot be read."""
    names = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
    similar = difflib.get_close_matches(_config_name(path.name), names, 1, 0.75)
    if similar:
        return f" (did you mean {similar[0]}, a config of this project?)"
    if path.suffix in {".yaml", ".yml"}:
        return ""
    return f" (settings are written key=value; configs: {', '.join(names)})"


def from_file(path: Path, apart: str) -> tuple[dict[str, Any], Any]:
    """The settings in a config file, all of them checked, and the content of its entry `apart`, None if it has none.

    Raises UsageError.
    """
    try:
        if path.is_fifo() and path.parts[:2] not in {("/", "dev"), ("/", "proc")}:  # as those of `<(command)` are
            raise UsageError(f"{path} is a named pipe, not a config file")
        with path.open("rb") as file:
            written = file.read(LIMIT + 1)
        if len(written) > LIMIT:
            raise UsageError(f"{path} is larger than {LIMIT >> 20} MiB: it is not a config file")
        content = parse_yaml(written.decode())
    except OSError as error:
        raise UsageError(f"cannot read the config file {path}: {reason(error)}{_hint(path)}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}, None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected lines of the form `key: value`")
    try:
        if _is_labmls(content):
            # The record may be someone else's: it does not choose where anything is stored.
            return {key: value for key, value in from_labml(content).items() if key not in PATHS}, None
        rest = content.pop(apart, None)
        return {full_key(key): checked(full_key(key), value) for key, value in flat(content)}, rest
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _is_labmls(content: Mapping[Any, Any]) -> bool:
    """Whether this is labml's record of a run's settings. There each key has several entries."""
    return all(isinstance(entry, dict) and {"value", "computed"} <= entry.keys() for entry in content.values())


def flat(content: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested keys as dotted ones."""
    pairs = []
    for key, value in content.items():
        if isinstance(value, dict):
            pairs += flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def from_word(key: str, word: str) -> Any:
    """A value from the command line: strings as they are, numbers as Python reads them, the rest as YAML."""
    kind = KEYS[key].type
    if kind is str or word == "":
        return word or None
    try:
        return int(word) if kind is int else float(word) if kind is float else parse_yaml(word)
    except (ValueError, yaml.YAMLError):
        return word
