"""Checks that checkpoints and weights share: of the format, the settings and the architecture."""

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labml_bn.cli.errors import UsageError, UserError
from labml_bn.settings import from_record


def check_format(path: Path, found: object, expected: str) -> None:
    """Raise UserError unless the file has the format that this version writes."""
    if found != expected:
        raise UserError(f"{path} was not written by this version of labml_bn")


def read_settings(path: Path, settings: Any) -> dict[str, Any]:
    """The settings in the file. Raises UserError for settings that this version does not have."""
    try:
        if not isinstance(settings, dict):
            raise UsageError("they are not keys and values")
        return from_record(settings)
    except (UsageError, ValueError) as error:  # the latter for a number that Python does not print
        raise UserError(f"{path} has unknown settings: {error}") from error


@contextlib.contextmanager
def matching_architecture(what: Path | str) -> Iterator[None]:
    """Turn PyTorch's errors while a saved state is loaded into a UserError with the first difference."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        # PyTorch lists the differences below a heading.
        heading, *differences = str(error).splitlines()
        difference = textwrap.shorten((differences or [heading])[0], 200)
        raise UserError(f"{what} does not match the architecture in its settings: {difference}") from error
