"""Reading checkpoints: the newest, the best, and those that cannot be used. Damaged ones are in tests/training."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from labml_bn.cli.errors import UserError
from labml_bn.settings import complete
from labml_bn.trained import checkpoints
from tests.conftest import SMALL


@pytest.fixture
def run(full_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to change."""
    return Path(shutil.copytree(full_run, tmp_path / full_run.name))


def rewritten(path: Path, **changes: Any) -> None:
    torch.save({**torch.load(path, weights_only=True), **changes}, path)


def test_newest(run: Path) -> None:
    found = checkpoints.newest(run)
    assert (found.path, found.complaints) == (run / "checkpoints" / "000000003000.pt", [])
    saved = torch.load(found.path, weights_only=True)
    torch.testing.assert_close(dict(found.state["model"]), dict(saved["model"]), rtol=0, atol=0)
    assert found.state["progress"] == {"epoch": 3, "step": 0, "seen": 3000}
    assert found.state["settings"].keys() == complete({}).keys()
    assert found.state["settings"]["epochs"] == int(SMALL[0].removeprefix("epochs="))


def test_newest_that_passes_a_check(run: Path) -> None:
    def check(path: Path, state: checkpoints.State) -> None:
        if state["progress"]["epoch"] == 3:
            raise UserError("too late")

    found = checkpoints.newest(run, check)
    assert (found.path.name, found.complaints) == ("000000002000.pt", ["too late"])


def test_best(run: Path) -> None:
    newest = checkpoints.newest(run)
    rewritten(newest.path, best={"name": "000000002000.pt", "accuracy": 1.0})
    assert checkpoints.best(run).path.name == "000000002000.pt"
    assert checkpoints.best(run).state["progress"]["seen"] == 2000
    rewritten(newest.path, best=None)
    with pytest.raises(UserError, match=r"has no best checkpoint: its first epoch was not completed"):
        checkpoints.best(run)
    rewritten(newest.path, best={"name": "000000009000.pt", "accuracy": 1.0})
    with pytest.raises(UserError, match=r"000000009000.pt is damaged or not a checkpoint"):
        checkpoints.best(run)


def test_none_saved(run: Path) -> None:
    checkpoints.check_saved(run)
    shutil.rmtree(run / "checkpoints")
    for use in (checkpoints.check_saved, checkpoints.newest, checkpoints.best):
        with pytest.raises(UserError, match=r"has no usable checkpoint: none was saved$"):
            use(run)
