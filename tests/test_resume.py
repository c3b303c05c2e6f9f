"""Runs that go on: wherever they were ended, they end as if they had not been, to the last bit."""

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from labml_bn import checkpoint
from labml_bn.run_record import read_run
from tests.conftest import SMALL, Begin, Run, metrics, runs


def tracked(run: Path) -> list[Any]:
    """Every line of a run's metrics, without the times at which they were written."""
    return [json.loads(line)["track"] for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same(run: Path, whole: Path) -> None:
    """Both runs have ended with the same weights and wrote the same lines."""
    assert tracked(run) == tracked(whole)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run, whole))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert read_run(run).status == "completed"


def wait_for(process: "subprocess.Popen[str]", beginning: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    pytest.fail(f"it ended before {beginning!r}: {process.communicate()}")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("when", ["epoch 1/3 step 4", "epoch 2/3 step 12", "epoch 2/3:"])
def test_ended_by_a_signal(
    begin: Begin, train: Run, work: Path, small: list[str], whole: Path, number: int, status: int, when: str
) -> None:
    process = begin(*small)
    wait_for(process, when)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    (run,) = runs(work)
    command = f"--resume logs/batch_norm/{run.name}"
    assert (process.returncode, error) == (status, f"interrupted: go on with: python -m labml_bn.train {command}\n")
    assert read_run(run).status == "interrupted"
    assert metrics(run)["loss.train"]
    started = yaml.safe_load((run / "run.yaml").read_text())

    done = train(*command.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert "Final accuracy" in done.stdout
    assert runs(work) == [run]
    assert yaml.safe_load((run / "run.yaml").read_text()) == started
    assert_same(run, whole)


def test_killed_between_checkpoints(begin: Begin, train: Run, work: Path, small: list[str], whole: Path) -> None:
    """What the log has beyond the checkpoint is written anew."""
    process = begin(*small)
    wait_for(process, "epoch 2/3 step 12")
    process.kill()
    process.communicate()
    (run,) = runs(work)
    assert read_run(run).status == "killed"
    state = checkpoint.newest(run).state
    assert state["progress"] == {"epoch": 1, "step": 0, "seen": 1000}
    beyond = max(step for step, _ in metrics(run)["loss.train"])
    assert beyond > 1000
    done = train("--resume", run.name[:6])
    assert (done.returncode, done.stderr) == (0, "")
    assert_same(run, whole)


def test_killed_before_the_first_epoch_was_done(
    begin: Begin, train: Run, work: Path, small: list[str], whole: Path
) -> None:
    process = begin(*small)
    wait_for(process, "epoch 1/3 step 4")
    process.kill()
    process.communicate()
    assert train("--resume", "latest").returncode == 0
    assert_same(runs(work)[0], whole)


FORKED = """
# Everything that takes long is imported once; each training is a process of its own, as it would be.
import os, random, signal, sys, time
import torch, torch._dynamo, labml_bn.train as train, labml_bn.checkpoint, labml_bn.weights, labml_bn.console
from labml_bn.command import run_command
from pathlib import Path
sys.stdout.reconfigure(line_buffering=True)

def start(*arguments):
    child = os.fork()
    if child == 0:
        sys.argv = ["train", *arguments]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            run_command(train.main)
        except SystemExit as exit:
            os._exit(exit.code)
    return child

settings, kills, generator = sys.argv[1:], 0, random.Random(7)
while True:
    saved = sorted(path.stem for path in Path("logs").glob("batch_norm/*/checkpoints/[0-9]*.pt"))
    epochs = 1000 if kills < 20 else int(saved[-1]) // 4000 + 1  # to the end of the epoch in hand
    goes_on = ["--resume", "latest", f"epochs={epochs}"]
    child = start(*goes_on) if saved else start(*settings, f"epochs={epochs}")
    if kills < 20:
        time.sleep(generator.uniform(0.1, 1.6))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        kills += 1
    elif os.WEXITSTATUS(status) == 0:
        break
    else:
        sys.exit(f"a training failed with status {os.WEXITSTATUS(status)}")
print(kills, epochs)
"""


@pytest.mark.slow
def test_killed_at_twenty_random_moments(work: Path, environment: dict[str, str], data_path: Path) -> None:
    """Twenty kills, each resumed; the run ends as one that was never killed."""
    settings = [
        *("train_samples=4000", "valid_samples=500", "checkpoint_interval=0.1", "device.use_cuda=false"),
        f"data_path={data_path}",
    ]
    done = subprocess.run(
        [sys.executable, "-c", FORKED, *settings],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    kills, epochs = map(int, done.stdout.split())
    assert kills == 20
    folders = [folder for folder in runs(work) if (folder / "model.safetensors").exists()]
    (killed,) = folders
    assert all(path.stem.isdecimal() for path in (killed / "checkpoints").iterdir())  # nothing half-written
    undisturbed = [sys.executable, "-m", "labml_bn.train", *settings, f"epochs={epochs}", "logs_path=whole"]
    subprocess.run(undisturbed, cwd=work, env=environment, capture_output=True, check=True)
    (whole,) = (work / "whole" / "batch_norm").glob("[!.]*")
    assert_same(killed, whole)


def test_for_longer(train: Run, work: Path, small: list[str], whole: Path) -> None:
    """Two epochs and a third later are three epochs."""
    assert train(*small, "epochs=2").returncode == 0
    done = train("--resume", "latest", "epochs=3")
    assert (done.returncode, done.stderr) == (0, "")
    assert_same(runs(work)[0], whole)
    assert read_run(runs(work)[0]).settings["epochs"] == 3


def test_for_longer_and_killed(begin: Begin, train: Run, work: Path, small: list[str], whole: Path) -> None:
    """Killed before its first new checkpoint: it is not the finished run that it was."""
    assert train(*small, "epochs=1").returncode == 0
    (run,) = runs(work)
    process = begin("--resume", "latest", "epochs=3", "checkpoint_interval=100")
    wait_for(process, "epoch 2/3 step 4/")
    process.kill()
    process.communicate()
    assert not (run / "model.safetensors").exists()
    assert read_run(run).status == "killed"
    assert train("--resume", "latest").returncode == 0
    assert_same(run, whole)


def test_no_fewer_epochs_than_are_begun(begin: Begin, train: Run, small: list[str]) -> None:
    process = begin(*small)
    wait_for(process, "epoch 2/3 step 4/")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    done = train("--resume", "latest", "epochs=1")
    assert (done.returncode, done.stderr) == (2, "error: epochs=1: the run is in its epoch 2 already\n")


def test_ctrl_c_in_the_last_evaluation(whole: Path, work: Path, begin: Begin, train: Run, small: list[str]) -> None:
    """The run is finished, and who asked for an end gets one."""
    process = begin(*small)
    wait_for(process, "epoch 3/3 step 16/")
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    if "Final accuracy" in output:  # it came in time for the evaluation, and not before it
        assert (process.returncode, error) == (130, "interrupted: the run was at its end, and is finished\n")
    else:
        assert process.returncode == 130
        assert train("--resume", "latest").returncode == 0
    assert_same(runs(work)[0], whole)


def test_a_config_file_and_keys(train: Run, work: Path, small: list[str]) -> None:
    """Before and after --resume, and what fits the run though it does not fit the defaults."""
    assert train(*small, "norm=none", "train_batch_size=1", "train_samples=20", "epochs=1").returncode == 0
    (work / "more.yaml").write_text("epochs: 2\n")
    done = train("more.yaml", "--resume", "latest", "train_batch_size=1", "keep=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert read_run(runs(work)[0]).settings["epochs"] == 2


def test_from_elsewhere(train: Run, work: Path, small: list[str], data_path: Path, environment: dict[str, str]) -> None:
    """A relative data folder is that of the run's beginning."""
    (work / "data").symlink_to(data_path)
    assert train(*small[:-1], "epochs=1").returncode == 0
    (run,) = runs(work)
    (work / "elsewhere").mkdir()
    command = [sys.executable, "-m", "labml_bn.train", "--resume", str(run), "epochs=2"]
    subprocess.run(command, cwd=work / "elsewhere", env=environment, check=True, capture_output=True)
    assert list((work / "elsewhere").iterdir()) == []


def test_a_finished_run_says_so(whole: Path, work: Path, train: Run) -> None:
    run = Path(shutil.copytree(whole, work / "logs" / "batch_norm" / whole.name))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "run.lock"}
    done = train("--resume", "latest")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the run is finished: its 3 epochs are done (epochs=N goes on up to N)\n"
    assert all(path.read_bytes() == content for path, content in before.items())
    # Killed after its last epoch, before it could keep the weights.
    (run / "model.safetensors").unlink()
    assert train("--resume", "latest").returncode == 0
    assert_same(run, whole)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("norm=none", "error: norm=none would make it another run (norm was batch_norm); what can change is epochs,"),
        ("train_samples=500", "error: train_samples=500 would make it another run (train_samples was 1000)"),
        ("optimizer.learning_rate=0.1", "error: optimizer.learning_rate=0.1 would make it another run"),
        ("inner_iterations=2", "error: inner_iterations=2 would make it another run"),
        ("epochs=2", "error: epochs=2: the run is in its epoch 3 already"),
    ],
)
def test_what_cannot_change(whole: Path, train: Run, argument: str, message: str) -> None:
    done = train("--resume", str(whole), argument)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert read_run(whole).status == "completed"


def test_saying_again_what_it_is_changes_nothing(whole: Path, train: Run) -> None:
    done = train("--resume", str(whole), *SMALL, "checkpoint_interval=0.5", "keep=5")
    assert (done.returncode, done.stderr) == (0, "")


def test_no_such_run(train: Run, whole: Path, work: Path) -> None:
    assert "there are no runs in" in train("--resume", "latest").stderr
    shutil.copytree(whole, work / "logs" / "batch_norm" / whole.name)
    for checkpoints in (work / "logs").glob("*/*/checkpoints/*"):
        checkpoints.unlink()
    done = train("--resume", whole.name)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "has no checkpoint to go on from: it ended before the first was saved" in done.stderr


@pytest.fixture
def held(begin: Begin, small: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A training that goes on for as long as the test needs it."""
    process = begin(*small, "epochs=1000")
    wait_for(process, "epoch 1/1000:")
    yield process
    process.kill()
    process.communicate()


def test_two_at_once(held: "subprocess.Popen[str]", train: Run, work: Path) -> None:
    (run,) = runs(work)
    done = train("--resume", "latest")
    assert done.returncode == 1
    assert done.stderr == f"error: {run} is going on: another training writes to it\n"
    assert held.poll() is None


def test_which_checkpoints_are_kept(train: Run, work: Path, small: list[str]) -> None:
    """The newest, and the one with the best accuracy on all test images."""
    assert train(*small, "epochs=5", "keep=1", "optimizer.learning_rate=0.05").returncode == 0
    (run,) = runs(work)
    accuracies = {step: value for step, (value,) in metrics(run)["accuracy.test"]}
    best = next(step for step, value in accuracies.items() if value == max(accuracies.values()))
    kept = [int(path.stem) for path in checkpoint.names(run / "checkpoints")]
    assert kept == sorted({5000, best}, reverse=True)


@pytest.mark.parametrize(("interval", "saved"), [("0.5", [0, 512, 1000, 1512, 2000]), ("2", [0, 2000]), ("0.01", None)])
def test_interval(train: Run, work: Path, small: list[str], interval: str, saved: list[int] | None) -> None:
    """In epochs, to the nearest validation; there is one before the first batch, and one at the end."""
    assert train(*small, "epochs=2", "keep=100", f"checkpoint_interval={interval}").returncode == 0
    (run,) = runs(work)
    kept = sorted(int(path.stem) for path in checkpoint.names(run / "checkpoints"))
    assert kept == (saved or [0, 256, 512, 768, 1000, 1256, 1512, 1768, 2000])
    for path in checkpoint.names(run / "checkpoints"):
        state = torch.load(path, weights_only=True)
        log = (run / "log.jsonl").read_bytes()[: state["log"]["size"]]
        assert log == b"" or log.endswith(b"\n")
        covered = [step for line in log.splitlines() for step, _ in json.loads(line)["track"].get("loss.train", [])]
        assert max(covered, default=0) == state["progress"]["seen"]


def test_interval_with_more_validations_than_steps(train: Run, work: Path, small: list[str]) -> None:
    few = [*small, "train_samples=256", "inner_iterations=10", "epochs=2", "keep=100", "checkpoint_interval=0.3"]
    assert train(*few).returncode == 0
    kept = sorted(int(path.stem) for path in checkpoint.names(runs(work)[0] / "checkpoints"))
    assert kept == [0, 128, 192, 256, 320, 384, 512]  # of 64 images a step: the first after each 0.3 of an epoch


def test_random_states() -> None:
    def draw() -> list[object]:
        return [torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist(), np.random.randn()]

    draw()
    before = checkpoint.random_states()
    drawn = draw()
    checkpoint.set_random_states(before)
    assert draw() == drawn
