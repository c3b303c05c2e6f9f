"""Reading checkpoints: the newest, the best, and those that cannot be used. Damaged ones are in tests/training."""

import functools
import os
import shutil
import zipfile
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


class Strange:
    """What a checkpoint can contain instead of its own values. Each is small in a file."""

    zeros = torch.zeros(1).expand(10**12)
    deep: list[Any] = functools.reduce(lambda inner, _: [inner], range(100), [])
    shared: list[Any] = functools.reduce(lambda inner, _: [inner] * 50, range(8), [1])
    tensor = torch.zeros(10_000)

    def __reduce__(self) -> tuple[object, ...]:
        return bytearray, (6_000_000_000,)


MALFORMED = {
    "no list": {"progress": []},
    "no counts": {"progress": {"epoch": 1, "step": 0}},
    "a negative count": {"progress": {"epoch": -1, "step": 0, "seen": 0}},
    "a fraction": {"progress": {"epoch": 1.5, "step": 0, "seen": 0}},
    "a truth value": {"progress": {"epoch": True, "step": 0, "seen": 0}},
    "a tensor as count": {"progress": {"epoch": torch.tensor(1), "step": 0, "seen": 0}},
    "a further count": {"progress": {"epoch": 1, "step": 0, "seen": 0, "metrics": 1}},
    "no log": {"log": None},
    "a log without size": {"log": {"elapsed": 1.0}},
    "a log of a negative size": {"log": {"size": -1, "elapsed": 1.0}},
    "a log of NaN seconds": {"log": {"size": 0, "elapsed": float("nan")}},
    "a best elsewhere": {"best": {"name": "../../../other/000000001000.pt", "accuracy": 0.5}},
    "a best without name": {"best": {"accuracy": 0.5}},
    "a best of another type": {"best": "000000001000.pt"},
    "a best that is too good": {"best": {"name": "000000001000.pt", "accuracy": 2.0}},
    "no model": {"model": None},
    "a model of numbers": {"model": {"conv1.weight": 1.0}},
    "a model of truth values": {"model": {"conv1.weight": torch.tensor([True])}},
    "a tensor without values": {"model": {"conv1.weight": Strange.zeros}},
    "a sparse tensor": {"model": {"conv1.weight": torch.ones(3).to_sparse()}},
    "a meta tensor": {"model": {"conv1.weight": torch.empty(10**12, device="meta")}},
    "no optimizer": {"optimizer": None},
    "no random states": {"random": []},
    "no metrics": {"metrics": 3},
    "no settings": {"settings": None},
    "settings of another type": {"settings": {"epochs": torch.zeros(3)}},
    "very many layers": {"settings": {"layers": "-".join(["1N"] * 100_000)}},
    "shared tensors": {"model": {f"conv{number}.weight": Strange.tensor for number in range(100)}},
    "a number as name": {"model": {5: torch.zeros(3)}},
    "numbers as settings": {"settings": {1: 2}},
    "much memory": {"metrics": Strange()},
    "bytes": {"random": {"python": b"\0" * 100}},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED)
def test_malformed(run: Path, changes: dict[str, Any]) -> None:
    """Each is refused in one line, before anything of the size that it claims is made."""
    path = checkpoints.newest(run).path
    rewritten(path, **changes)
    with pytest.raises(UserError) as raised:
        checkpoints.read(path)
    assert str(raised.value).startswith(f"{path} ")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < len(str(path)) + 300
    assert checkpoints.newest(run).path != path


@pytest.mark.parametrize("value", [Strange.shared, Strange.deep], ids=["shared", "deep"])
def test_lists_that_are_not_followed_twice(run: Path, value: list[Any]) -> None:
    """A list of 39 trillion entries in a few hundred bytes, and a deep one; the rest of the checkpoint can be used."""
    path = checkpoints.newest(run).path
    rewritten(path, further=value)
    assert checkpoints.read(path)["progress"]["epoch"] == 3


def test_a_missing_part(run: Path) -> None:
    path = checkpoints.newest(run).path
    saved = torch.load(path, weights_only=True)
    for name in saved.keys() - {"threads"}:  # which older checkpoints lack
        torch.save({other: value for other, value in saved.items() if other != name}, path)
        with pytest.raises(UserError, match=r"^\S+ (was not written by|has unknown settings|is incomplete or damaged)"):
            checkpoints.read(path)


@pytest.mark.parametrize("kind", ["link", "pipe", "compressed", "no archive"])
def test_other_files(run: Path, kind: str) -> None:
    path = checkpoints.newest(run).path
    content = path.read_bytes()
    path.unlink()
    if kind == "link":
        (run / "other").write_bytes(content)
        path.symlink_to(run / "other")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "compressed":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(10**8))
        assert path.stat().st_size < 200_000
    else:
        path.write_bytes(b"PK")
    with pytest.raises(UserError) as raised:
        checkpoints.read(path)
    assert str(raised.value).startswith(f"{path} is ")
    assert checkpoints.is_checkpoint(path) is False


def test_what_begins_as_a_checkpoint(run: Path) -> None:
    path = checkpoints.newest(run).path
    assert checkpoints.is_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-1000])  # damaged, but one of this project
    assert checkpoints.is_checkpoint(path)
    torch.save({"weight": torch.zeros(3)}, path)
    assert not checkpoints.is_checkpoint(path)
    path.unlink()
    assert not checkpoints.is_checkpoint(path)


def test_none_saved(run: Path) -> None:
    checkpoints.check_saved(run)
    shutil.rmtree(run / "checkpoints")
    for use in (checkpoints.check_saved, checkpoints.newest, checkpoints.best):
        with pytest.raises(UserError, match=r"has no usable checkpoint: none was saved$"):
            use(run)
