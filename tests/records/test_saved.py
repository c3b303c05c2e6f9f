"""The words in which checkpoints and weights are refused."""

from pathlib import Path

import pytest

from labml_bn.cli.errors import UserError
from labml_bn.records.saved import check_format, matching_architecture, read_settings

FILE = Path("run/model.safetensors")


def test_format() -> None:
    check_format(FILE, "labml_bn 1", "labml_bn 1")
    for found in ("labml_bn 0", None, 3):
        with pytest.raises(UserError, match=r"^run/model.safetensors was not written by this version of labml_bn$"):
            check_format(FILE, found, "labml_bn 1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "they are not keys and values"),
        ([], "they are not keys and values"),
        ({"depth": 3}, "unknown key 'depth'"),
        ({"epochs": "many"}, "epochs must be an integer, got 'many'"),
    ],
)
def test_settings(settings: object, message: str) -> None:
    assert read_settings(FILE, {"epochs": 3}) == {"epochs": 3}
    with pytest.raises(UserError, match=f"has unknown settings: {message}"):
        read_settings(FILE, settings)


def test_architecture() -> None:
    refused = pytest.raises(UserError, match=r"does not match the architecture in its settings: size mismatch$")
    with refused, matching_architecture(FILE):
        raise RuntimeError("Error(s) in loading:\n\tsize mismatch\n\tanother one")
