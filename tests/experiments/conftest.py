"""Experiments run in an empty folder, which has the data set."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, data_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    (tmp_path / "data").symlink_to(data_path, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
