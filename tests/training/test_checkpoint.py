"""Checkpoints: which are saved and kept, what they restore, and how damaged ones are refused."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from labml_bn.cli.errors import UserError
from labml_bn.data.mnist import load
from labml_bn.models import ConvNet
from labml_bn.records.folder import list_checkpoints
from labml_bn.training import checkpoint
from labml_bn.training.optimizers import Adam
from tests.conftest import Run, metrics, runs


@pytest.fixture
def run(full_run: Path, work: Path) -> Path:
    """A copy of a finished run, to damage."""
    return Path(shutil.copytree(full_run, work / "logs" / "batch_norm" / full_run.name))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def other_version(path: Path) -> None:
    torch.save({**torch.load(path, weights_only=True), "format": "labml_bn checkpoint 0"}, path)


def other_settings(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save({**state, "settings": {**state["settings"], "norm": "unheard of"}}, path)


def non_finite(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["model"]["conv1.weight"][0] = torch.nan
    torch.save(state, path)


def incomplete(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    del state["log"]
    torch.save(state, path)


@pytest.mark.parametrize("threads", [0, -1, 10**6, 2.0, True, "4", None])
def test_an_impossible_number_of_threads(run: Path, threads: object) -> None:
    newest, before, *_ = list_checkpoints(run)
    torch.save({**torch.load(newest, weights_only=True), "threads": threads}, newest)
    found = checkpoint.newest(run)
    assert found.path == before
    assert "has an impossible number of threads" in found.complaints[0]


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch evil",)


def code(path: Path) -> None:
    torch.save({**torch.load(path, weights_only=True), "best": Evil()}, path)


@pytest.mark.parametrize(
    "damage", [flipped, truncated, emptied, other_version, other_settings, non_finite, incomplete, code]
)
def test_a_damaged_checkpoint(run: Path, damage: Callable[[Path], None]) -> None:
    """Falls back to the previous one; if there is none, that is reported."""
    newest, *others = list_checkpoints(run)
    damage(newest)
    found = checkpoint.newest(run)
    assert found.state["progress"]["seen"] == int(others[0].stem)
    (complaint,) = found.complaints
    assert str(newest) in complaint
    for other in others:
        damage(other)
    with pytest.raises(UserError, match="has no usable checkpoint: ") as raised:
        checkpoint.newest(run)
    assert "\n" not in str(raised.value)
    assert not Path("evil").exists()


@pytest.fixture
def parts(data_path: Path) -> Any:
    """The parts of that run that a checkpoint is restored to, without labml."""
    torch.manual_seed(1)
    model = ConvNet()
    images = load("MNIST", data_path, "train", samples=1000, device=torch.device("cpu"), dtype=torch.float32)
    return SimpleNamespace(
        model=model,
        optimizer=Adam(model.parameters(), fused=True),
        train_set=images,
        train_batch_size=64,
        inner_iterations=4,
        checkpoint_interval=1.0,
        epochs=3,
        device=torch.device("cpu"),
    )


def test_restored(run: Path, parts: Any) -> None:
    found = checkpoint.newest(run)
    progress = checkpoint.restore(parts, found.state, run)
    assert (progress.epoch, progress.step, progress.seen) == (3, 0, 3000)
    for name, tensor in parts.model.state_dict().items():
        assert torch.equal(tensor, found.state["model"][name])
    restored = parts.optimizer.state_dict()
    assert restored["param_groups"][0]["lr"] == 0.001
    for number, values in found.state["optimizer"]["state"].items():
        for name, value in values.items():
            assert torch.equal(restored["state"][number][name], value)


def first(state: Any) -> Any:
    return state["optimizer"]["state"][0]


#: Changes of a state that has the right form: what no run has saved.
MALFORMED: dict[str, Callable[[Any], object]] = {
    "seen": lambda state: state["progress"].update(seen=10),
    "steps": lambda state: state["progress"].update(step=10**9),
    "epochs": lambda state: state["progress"].update(epoch=4, seen=4000),
    "no moment": lambda state: first(state).pop("exp_avg"),
    "another moment": lambda state: first(state).update(other=torch.zeros(3)),
    "a moment's shape": lambda state: first(state).update(exp_avg=torch.zeros(3)),
    "a moment that is a text": lambda state: first(state).update(exp_avg="zeros"),
    "a non-finite moment": lambda state: first(state)["exp_avg"].fill_(torch.nan),
    "a step for each weight": lambda state: first(state).update(step=torch.ones(20, 1, 5, 5)),
    "no parameter": lambda state: state["optimizer"]["state"].pop(0),
    "another parameter": lambda state: state["optimizer"]["state"].update({99: first(state)}),
    "a parameter with a name": lambda state: state["optimizer"].update(state={"conv1": {}}),
    "no state": lambda state: state["optimizer"].pop("state"),
    "metrics of other steps": lambda state: state["metrics"].update(
        steps=[10**9], images=[1], losses=torch.zeros(1), correct=torch.zeros(1)
    ),
    "metrics of other lengths": lambda state: state["metrics"].update(
        steps=[1], images=[1, 2], losses=torch.zeros(2), correct=torch.zeros(2)
    ),
    "metrics of several losses": lambda state: state["metrics"].update(
        steps=[1], images=[1], losses=torch.zeros(1, 3), correct=torch.zeros(1, 3)
    ),
    "metrics of NaN": lambda state: state["metrics"].update(
        steps=[1], images=[1], losses=torch.zeros(1), correct=torch.tensor([torch.nan])
    ),
    "metrics of a list": lambda state: state["metrics"].update(
        steps=[1], images=[1], losses=torch.zeros(1), correct=[torch.nan]
    ),
    "metrics without losses": lambda state: state["metrics"].update(steps=[1], images=[1]),
    "no random state": lambda state: state["random"].pop("torch"),
    "Python's": lambda state: state["random"].update(python=(3, (1, 2), None)),
    "NumPy's": lambda state: state["random"].update(numpy=("MT19937", torch.zeros(3), 0, 0, 0.0)),
    "NumPy's position": lambda state: state["random"].update(
        numpy=("MT19937", torch.zeros(624, dtype=torch.int64), 10**9, 0, 0.0)
    ),
    "NumPy's generator": lambda state: state["random"].update(numpy=("PCG64", torch.zeros(624), 0, 0, 0.0)),
    "PyTorch's": lambda state: state["random"].update(torch=torch.zeros(3, dtype=torch.uint8)),
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED)
def test_malformed(run: Path, parts: Any, change: Callable[[Any], object]) -> None:
    """Each is refused in one line, though it can be read."""
    newest, *_ = list_checkpoints(run)
    state = torch.load(newest, weights_only=True)
    change(state)
    torch.save(state, newest)
    found = checkpoint.newest(run)
    assert found.path == newest
    with pytest.raises(UserError, match=r"^the checkpoint of .* is damaged: ") as raised:
        checkpoint.restore(parts, found.state, run)
    assert "\n" not in str(raised.value)


def test_what_is_set_is_set_by_the_settings(run: Path, parts: Any) -> None:
    """Not by the copy of it that PyTorch saves with the state of an optimizer."""
    state = checkpoint.newest(run).state
    state["optimizer"]["param_groups"] = [{"lr": "fast", "params": "all"}]
    checkpoint.restore(parts, state, run)
    assert parts.optimizer.param_groups[0]["lr"] == 0.001


def test_a_network_of_any_size(run: Path) -> None:
    """A network of 40 GB that is only in the settings is refused before it is made."""
    state = checkpoint.newest(run).state
    state["settings"]["layers"] = "-".join(["9999N"] * 100)
    with pytest.raises(UserError, match="does not match the architecture in its settings: "):
        checkpoint.changed(run, state, {})


def test_other_files_are_not_deleted(run: Path, train: Run, work: Path) -> None:
    """Only what has a checkpoint's name and begins as one; none through a link."""
    folder = run / "checkpoints"
    kept = ["000000000001.pt", "notes.pt", "1234.pt"]
    for name in kept:
        (folder / name).write_bytes(b"of the user")
    (folder / "000000000002.pt").write_bytes((folder / "000000003000.pt").read_bytes())
    assert train("--resume", "latest", "epochs=4").returncode == 0
    assert {path.name for path in folder.iterdir()} >= {*kept, "000000004000.pt", "000000003000.pt"}
    assert not (folder / "000000000002.pt").exists()

    other = work / "other"
    folder.rename(other)
    folder.symlink_to(other)
    before = sorted(path.name for path in other.iterdir())
    done = train("--resume", "latest", "epochs=5")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in other.iterdir()) == before


@pytest.mark.parametrize(
    "name",
    ["log.jsonl", "configs.yaml", "indicators.yaml", "run_log.jsonl", "run.pid", "model.safetensors", "run.lock"],
)
def test_a_run_whose_files_are_links_is_not_resumed(run: Path, train: Run, work: Path, name: str) -> None:
    other = work / "other"
    if (run / name).exists():
        (run / name).rename(other)
    else:
        other.write_text("of the user")
    (run / name).symlink_to(other)
    before = other.read_bytes()
    done = train("--resume", str(run), "epochs=4")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{name} is a symbolic link, which is not followed" in done.stderr
    assert done.stderr.count("\n") == 1
    assert other.read_bytes() == before


def test_no_run_is_started_elsewhere(train: Run, work: Path, small: list[str]) -> None:
    (work / "other").mkdir()
    (work / "logs").mkdir()
    (work / "logs" / "batch_norm").symlink_to(work / "other")
    done = train(*small)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "batch_norm is a symbolic link, in which no run is started" in done.stderr
    assert list((work / "other").iterdir()) == []


def test_a_run_that_is_reached_through_links_is_resumed(run: Path, train: Run, work: Path) -> None:
    """The logs folder and the run's folder may be links."""
    elsewhere = (work / "logs").rename(work / "elsewhere")
    (work / "logs").symlink_to(elsewhere)
    (elsewhere / "batch_norm" / "link").symlink_to(elsewhere / "batch_norm" / run.name)
    assert train("--resume", "logs/batch_norm/link", "epochs=4").returncode == 0
    assert (elsewhere / "batch_norm" / run.name / "checkpoints" / "000000004000.pt").is_file()


def test_which_checkpoints_are_kept(train: Run, work: Path, small: list[str]) -> None:
    """The newest, and the one with the best accuracy on all test images."""
    assert train(*small, "epochs=5", "keep=1", "optimizer.learning_rate=0.05").returncode == 0
    (run,) = runs(work)
    accuracies = {step: value for step, (value,) in metrics(run)["accuracy.test"]}
    best = next(step for step, value in accuracies.items() if value == max(accuracies.values()))
    kept = [int(path.stem) for path in list_checkpoints(run)]
    assert kept == sorted({5000, best}, reverse=True)


@pytest.mark.parametrize(("interval", "saved"), [("0.5", [0, 512, 1000, 1512, 2000]), ("2", [0, 2000]), ("0.01", None)])
def test_interval(train: Run, work: Path, small: list[str], interval: str, saved: list[int] | None) -> None:
    """In epochs, to the nearest validation; one is saved before the first batch, and one at the end."""
    assert train(*small, "epochs=2", "keep=100", f"checkpoint_interval={interval}").returncode == 0
    (run,) = runs(work)
    kept = sorted(int(path.stem) for path in list_checkpoints(run))
    assert kept == (saved or [0, 256, 512, 768, 1000, 1256, 1512, 1768, 2000])
    for path in list_checkpoints(run):
        state = torch.load(path, weights_only=True)
        log = (run / "log.jsonl").read_bytes()[: state["log"]["size"]]
        assert log == b"" or log.endswith(b"\n")
        covered = [step for line in log.splitlines() for step, _ in json.loads(line)["track"].get("loss.train", [])]
        assert max(covered, default=0) == state["progress"]["seen"]


def test_interval_with_more_validations_than_steps(train: Run, work: Path, small: list[str]) -> None:
    few = [*small, "train_samples=256", "inner_iterations=10", "epochs=2", "keep=100", "checkpoint_interval=0.3"]
    assert train(*few).returncode == 0
    kept = sorted(int(path.stem) for path in list_checkpoints(runs(work)[0]))
    assert kept == [0, 128, 192, 256, 320, 384, 512]  # of 64 images a step: the first after each 0.3 of an epoch


def test_random_states() -> None:
    def draw() -> list[object]:
        return [torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist(), np.random.randn()]

    draw()
    before = checkpoint.random_states()
    drawn = draw()
    checkpoint.set_random_states(before)
    assert draw() == drawn
