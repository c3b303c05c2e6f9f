"""Resumed runs: wherever they were interrupted, the result is bit-identical to an uninterrupted run."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from labml_bn.records.record import read_run
from labml_bn.training import checkpoint, run
from tests.conftest import SMALL, Begin, Run, metrics, runs


def tracked(run: Path) -> list[Any]:
    """The metrics on each line of a run's log, without the times."""
    return [json.loads(line)["track"] for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same(run: Path, full_run: Path) -> None:
    """Both runs have the same weights and the same log lines."""
    assert tracked(run) == tracked(full_run)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run, full_run))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert read_run(run).status == "completed"


def wait_for(process: "subprocess.Popen[str]", beginning: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    pytest.fail(f"it ended before {beginning!r}: {process.communicate()}")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("when", ["epoch 1/3 step 4", "epoch 2/3 step 12", "epoch 2/3:"])
def test_ended_by_a_signal(
    begin: Begin, train: Run, work: Path, small: list[str], full_run: Path, number: int, status: int, when: str
) -> None:
    process = begin(*small)
    wait_for(process, when)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    (run,) = runs(work)
    command = f"--resume logs/batch_norm/{run.name}"
    assert (process.returncode, error) == (status, f"interrupted: resume with: python -m labml_bn.train {command}\n")
    assert read_run(run).status == "interrupted"
    epoch, step = divmod(len(metrics(run)["loss.train"]), 16)  # steps taken
    started = yaml.safe_load((run / "run.yaml").read_text())

    done = train(*command.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == f"Resuming in epoch {epoch + 1} of 3, at step {step + 1} of 16"
    assert "Final accuracy" in done.stdout
    assert runs(work) == [run]
    assert yaml.safe_load((run / "run.yaml").read_text()) == started
    assert_same(run, full_run)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("1", "4"), ("4", "1")])
def test_resumed_with_another_number_of_threads(
    begin: Begin, train: Run, work: Path, environment: dict[str, str], small: list[str], before: str, after: str
) -> None:
    """The order of additions, and so the last bits, depend on the number of threads: that of the start stays."""
    environment["OMP_NUM_THREADS"] = before
    assert train(*small, "logs_path=uninterrupted").returncode == 0
    (uninterrupted,) = (work / "uninterrupted" / "batch_norm").glob("[!.]*")
    process = begin(*small)
    wait_for(process, "epoch 2/3 step 4")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    environment["OMP_NUM_THREADS"] = after
    done = train("--resume", "latest")
    assert (done.returncode, done.stderr) == (0, "")
    (run,) = runs(work)
    assert_same(run, uninterrupted)
    assert done.stdout.splitlines()[1].endswith(f", with {before} thread{'s' * (before != '1')} as before")


#: Settings that change how a step is taken.
UNUSUAL = [
    *("layers=P2-8C3-P2-4C3-30N-20N", "train_samples=1010", "precision=bfloat16", "checkpoint_interval=0.5"),
    *("optimizer.schedule=one_cycle", "optimizer.weight_decay=0.1", "optimizer.learning_rate=0.01"),
    *("augmentation.shift=2", "augmentation.rotation=10", "augmentation.scale=0.1", "augmentation.shear=5"),
    *("augmentation.elastic=1", "population_samples=300"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("more", "norms"), [([], 4), (["compile=true", "layers=P2-8C3-20N"], 2)], ids=["", "compile"])
def test_unusual_settings(
    begin: Begin, command: Run, work: Path, environment: dict[str, str], small: list[str], more: list[str], norms: int
) -> None:
    """A run with them is bit-identical after an interruption, and its network can be evaluated and exported."""
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(work / "inductor")
    settings = [*small, *UNUSUAL, *more]
    assert command("train", *settings).returncode == 0
    (whole,) = runs(work)
    process = begin(*settings)
    wait_for(process, "epoch 2/3 step 8")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    run = runs(work)[-1]
    assert read_run(run).status == "interrupted"
    assert command("train", "--resume", run).returncode == 0
    assert_same(run, whole)
    final = metrics(run)["accuracy.test"][-1][1][0]
    shown = command("evaluate", run)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"accuracy {final:.2%}" in shown.stdout
    assert command("evaluate", run, "--statistics", "population:500").returncode == 0
    assert {f"bn.norm{number}.running_var" for number in range(1, norms + 1)} < set(metrics(run))
    if not more:
        done = command("export", run, "digits.onnx")
        assert (done.returncode, done.stderr) == (0, "")


def test_the_reader_of_the_output_goes(begin: Begin, work: Path, small: list[str], full_run: Path) -> None:
    """`train | head -2`: the run continues to its end without an error."""
    process = begin(*small)
    assert process.stdout is not None
    wait_for(process, "epoch 1/3 step 4")
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0
    (run,) = runs(work)
    assert_same(run, full_run)


@pytest.fixture
def terminal(work: Path, environment: dict[str, str]) -> Iterator[Callable[..., tuple[int, "subprocess.Popen[bytes]"]]]:
    """Start a run on a terminal that is, or is not, its controlling terminal. Gives the other end of the terminal."""
    started: list[subprocess.Popen[bytes]] = []

    def start(controlling: bool, *arguments: str) -> tuple[int, "subprocess.Popen[bytes]"]:
        def take() -> None:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            if controlling:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        ours, its = pty.openpty()
        command = [sys.executable, "-m", "labml_bn.train", *arguments]
        process = subprocess.Popen(
            command,
            cwd=work,
            env=environment,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            preexec_fn=take,
        )
        os.close(its)
        started.append(process)
        return ours, process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("controlling", [True, False])
def test_the_terminal_is_closed(
    terminal: Callable[..., tuple[int, "subprocess.Popen[bytes]"]],
    train: Run,
    work: Path,
    small: list[str],
    full_run: Path,
    controlling: bool,
) -> None:
    """The system sends SIGHUP: the step is finished and saved. Without that, the run continues to its end."""
    ours, process = terminal(controlling, *small, "checkpoint_interval=100")
    shown = b""
    while b"epoch 2/3" not in shown:
        shown += os.read(ours, 4096)
    os.close(ours)
    status = process.wait(timeout=120)
    (run,) = runs(work)
    if controlling:
        assert status == 129
        assert read_run(run).status == "interrupted"
        assert checkpoint.newest(run).state["progress"]["seen"] >= 1000
        assert train("--resume", "latest").returncode == 0
    else:
        assert status == 0
    assert_same(run, full_run)


def test_a_run_that_has_learned_nothing(train: Run, small: list[str]) -> None:
    remark = "This cannot be told from guessing: try another learning rate (lr=...) or optimizer, or more epochs."
    high = ["optimizer.optimizer=SGD", "optimizer.learning_rate=1000", "norm=none", "epochs=1", "dtype=float64"]
    assert remark in train(*small, *high).stdout.splitlines()
    assert remark not in train(*small, "epochs=1").stdout.splitlines()


@pytest.mark.parametrize(
    ("correct", "images", "guessing"),
    [
        (980, 10_000, True),
        (1135, 10_000, True),
        (1229, 10_000, True),
        (1231, 10_000, False),
        (40, 200, False),
        (1, 2, False),
    ],
)
def test_guessing(correct: int, images: int, guessing: bool) -> None:
    """No better than always answering with the class of 11.35 % of the images: below that and three standard errors."""
    labels = torch.cat((torch.ones(round(0.1135 * images)), torch.arange(images - round(0.1135 * images)) % 9 + 2))
    assert run.is_guessing(correct / images, labels.long()) == guessing


def test_held_out_images_choose(train: Run, work: Path, small: list[str]) -> None:
    """They are validated on, and the best checkpoint is theirs. The test images are evaluated as without them."""
    done = train(*small, "held_out=1000", "optimizer.learning_rate=0.02")
    assert (done.returncode, done.stderr) == (0, "")
    assert "validated on the 1000 held out" in done.stdout
    (folder,) = runs(work)
    logged = metrics(folder)
    held_out, test, valid = (logged[f"accuracy.{name}"] for name in ("held_out", "test", "valid"))
    assert [len(series) for series in (held_out, test, valid)] == [3, 3, 12]
    by_epoch = [sum(values[0] for _, values in valid[4 * epoch : 4 * epoch + 4]) / 4 for epoch in range(3)]
    assert by_epoch != [values[0] for _, values in test]
    state = torch.load(max((folder / "checkpoints").iterdir()), weights_only=True)
    best = max(held_out, key=lambda point: point[1][0])
    assert state["best"] == {"name": f"{best[0]:012}.pt", "accuracy": pytest.approx(best[1][0])}
    settings = yaml.safe_load((folder / "configs.yaml").read_text())
    assert settings["held_out"]["value"] == 1000


def test_without_a_compiler(train: Run, work: Path, environment: dict[str, str], small: list[str]) -> None:
    """One line, and nothing was written."""
    environment |= {"PATH": str(work), "TORCHINDUCTOR_CACHE_DIR": str(work.parent / "inductor")}
    done = train(*small, "compile=true")
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]  # on some machines torch prints a warning before
    assert error.startswith("error: compile=true needs torch.compile and a C++ compiler (environment variable CXX): ")
    assert "No working C++ compiler found" in error
    assert "Traceback" not in done.stderr
    assert list(work.iterdir()) == []


def test_killed_between_checkpoints(begin: Begin, train: Run, work: Path, small: list[str], full_run: Path) -> None:
    """Log entries after the checkpoint are discarded and regenerated."""
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
    assert_same(run, full_run)


def test_killed_in_the_first_epoch(begin: Begin, train: Run, work: Path, small: list[str], full_run: Path) -> None:
    process = begin(*small)
    wait_for(process, "epoch 1/3 step 4")
    process.kill()
    process.communicate()
    assert train("--resume", "latest").returncode == 0
    assert_same(runs(work)[0], full_run)


FORKED = """
# Slow imports happen once; each run is still a process of its own.
import os, random, signal, sys, time
import torch, torch._dynamo, labml_bn.train as train, labml_bn.training.run
from labml_bn.cli.command import run_command
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
    epochs = 1000 if kills < 20 else int(saved[-1]) // 4000 + 1  # to the end of the current epoch
    resumed = ["--resume", "latest", f"epochs={epochs}"]
    child = start(*resumed) if saved else start(*settings, f"epochs={epochs}")
    if kills < 20:
        time.sleep(generator.uniform(0.1, 1.6))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        kills += 1
    elif os.WEXITSTATUS(status) == 0:
        break
    else:
        sys.exit(f"a run failed with status {os.WEXITSTATUS(status)}")
print(kills, epochs)
"""


@pytest.mark.slow
def test_killed_at_twenty_random_moments(work: Path, environment: dict[str, str], data_path: Path) -> None:
    """Twenty kills, each resumed; the result is that of a run that was never killed."""
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
    # A run that was killed before its first checkpoint was started again; it may not even have its `run.yaml`.
    (weights,) = (work / "logs" / "batch_norm").glob("*/model.safetensors")
    killed = weights.parent
    assert all(path.stem.isdecimal() for path in (killed / "checkpoints").iterdir())  # nothing half-written
    command = [sys.executable, "-m", "labml_bn.train", *settings, f"epochs={epochs}", "logs_path=uninterrupted"]
    subprocess.run(command, cwd=work, env=environment, capture_output=True, check=True)
    (uninterrupted,) = (work / "uninterrupted" / "batch_norm").glob("[!.]*")
    assert_same(killed, uninterrupted)


def test_more_epochs(train: Run, work: Path, small: list[str], full_run: Path) -> None:
    """Two epochs, and a third after a resume, are three epochs."""
    assert train(*small, "epochs=2").returncode == 0
    done = train("--resume", "latest", "epochs=3")
    assert (done.returncode, done.stderr) == (0, "")
    assert_same(runs(work)[0], full_run)
    assert read_run(runs(work)[0]).settings["epochs"] == 3


def test_more_epochs_and_killed(begin: Begin, train: Run, work: Path, small: list[str], full_run: Path) -> None:
    """Killed before its first new checkpoint: it no longer counts as finished."""
    assert train(*small, "epochs=1").returncode == 0
    (run,) = runs(work)
    process = begin("--resume", "latest", "epochs=3", "checkpoint_interval=100")
    wait_for(process, "epoch 2/3 step 4/")
    process.kill()
    process.communicate()
    assert not (run / "model.safetensors").exists()
    assert read_run(run).status == "killed"
    assert train("--resume", "latest").returncode == 0
    assert_same(run, full_run)


def test_fewer_epochs_than_started(begin: Begin, train: Run, small: list[str]) -> None:
    process = begin(*small)
    wait_for(process, "epoch 2/3 step 4/")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    done = train("--resume", "latest", "epochs=1")
    assert (done.returncode, done.stderr) == (2, "error: epochs=1: the run is already in epoch 2\n")


def test_ctrl_c_in_the_last_evaluation(full_run: Path, work: Path, begin: Begin, train: Run, small: list[str]) -> None:
    """A run that completes exits with status 0, even if Ctrl-C came at the very end."""
    process = begin(*small)
    wait_for(process, "epoch 3/3 step 16/")
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    if "Final accuracy" in output:  # the signal came during the evaluation, not before it
        assert (process.returncode, error) == (0, "")
    else:
        assert process.returncode == 130
        assert train("--resume", "latest").returncode == 0
    assert_same(runs(work)[0], full_run)


def test_a_config_file_and_keys(train: Run, work: Path, small: list[str]) -> None:
    """Before and after --resume, and values that are allowed for the run, but not with the defaults."""
    assert train(*small, "norm=none", "train_batch_size=1", "train_samples=20", "epochs=1").returncode == 0
    (work / "more.yaml").write_text("epochs: 2\n")
    done = train("more.yaml", "--resume", "latest", "train_batch_size=1", "keep=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert read_run(runs(work)[0]).settings["epochs"] == 2


def test_from_another_folder(
    train: Run, work: Path, small: list[str], data_path: Path, environment: dict[str, str]
) -> None:
    """A relative data folder is relative to where the run was started."""
    (work / "data").symlink_to(data_path)
    assert train(*small[:-1], "epochs=1").returncode == 0
    (run,) = runs(work)
    (work / "elsewhere").mkdir()
    command = [sys.executable, "-m", "labml_bn.train", "--resume", str(run), "epochs=2"]
    subprocess.run(command, cwd=work / "elsewhere", env=environment, check=True, capture_output=True)
    assert list((work / "elsewhere").iterdir()) == []


def test_latest_passes_over_finished_runs(begin: Begin, train: Run, work: Path, small: list[str]) -> None:
    """The newest run with something left to do is resumed, and a line says what was passed over."""
    process = begin(*small)
    wait_for(process, "epoch 2/3 step 4")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    (interrupted,) = runs(work)
    assert train(*small, "epochs=1").returncode == 0
    done = train("--resume", "latest")
    assert (done.returncode, done.stdout.count("Final accuracy")) == (0, 1)
    assert re.search(
        f"latest is .*/{interrupted.name}; newer, but passed over: .* has completed its epochs$", done.stderr
    )
    assert read_run(interrupted).status == "completed"


def test_interrupted_after_the_last_epoch(train: Run, work: Path, small: list[str]) -> None:
    """Resumed for no more epochs than it has, a run is evaluated once more."""
    first = train(*small, "epochs=2")
    (run,) = runs(work)
    (run / "model.safetensors").unlink()
    again = train("--resume", "latest", "epochs=2")
    lines = [[line for line in done.stdout.splitlines() if "Final" in line] for done in (first, again)]
    assert lines[0][0].split(" in ")[0] == lines[1][0].split(" in ")[0]


def test_a_finished_run_is_reported(full_run: Path, work: Path, train: Run) -> None:
    run = Path(shutil.copytree(full_run, work / "logs" / "batch_norm" / full_run.name))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "run.lock"}
    done = train("--resume", "latest")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"logs/batch_norm/{run.name} had already completed its epochs (epochs=N trains up to N)\n"
    assert all(path.read_bytes() == content for path, content in before.items())
    # Killed after its last epoch, before the weights were saved.
    (run / "model.safetensors").unlink()
    assert train("--resume", "latest").returncode == 0
    assert_same(run, full_run)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("norm=none", "error: norm=none cannot be changed when resuming (norm was batch_norm); only epochs,"),
        ("train_samples=500", "error: train_samples=500 cannot be changed when resuming (train_samples was 1000)"),
        ("optimizer.learning_rate=0.1", "error: optimizer.learning_rate=0.1 cannot be changed when resuming"),
        ("compile=true", "error: compile=true cannot be changed when resuming (compile was false)"),
        ("inner_iterations=2", "error: inner_iterations=2 cannot be changed when resuming"),
        ("epochs=2", "error: epochs=2: the run is already in epoch 3"),
    ],
)
def test_what_cannot_change(full_run: Path, train: Run, argument: str, message: str) -> None:
    done = train("--resume", str(full_run), argument)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert read_run(full_run).status == "completed"


def test_repeating_the_settings_changes_nothing(full_run: Path, train: Run) -> None:
    done = train("--resume", str(full_run), *SMALL, "checkpoint_interval=0.5", "keep=5")
    assert (done.returncode, done.stderr) == (0, "")


def test_no_such_run(train: Run, full_run: Path, work: Path) -> None:
    assert "there are no runs in" in train("--resume", "latest").stderr
    shutil.copytree(full_run, work / "logs" / "batch_norm" / full_run.name)
    for checkpoints in (work / "logs").glob("*/*/checkpoints/*"):
        checkpoints.unlink()
    done = train("--resume", full_run.name)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "has no usable checkpoint: none was saved" in done.stderr


@pytest.fixture
def held(begin: Begin, small: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A run that keeps running until the test ends."""
    process = begin(*small, "epochs=1000")
    wait_for(process, "epoch 1/1000:")
    yield process
    process.kill()
    process.communicate()


def test_two_at_once(held: "subprocess.Popen[str]", train: Run, work: Path) -> None:
    (run,) = runs(work)
    done = train("--resume", "latest")
    assert done.returncode == 1
    assert done.stderr == f"error: {run} is in use by another process\n"
    assert held.poll() is None


#: Trains a small network of its own, and resumes it for another epoch.
OWN = """
import sys
from torch import nn
from labml_bn import settings
from labml_bn.training import run

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

finished = run.start(settings.read(sys.argv[1:]), model=make)
run.resume(str(finished.folder), {"epochs": 2}, model=make)
"""


@pytest.mark.slow
def test_a_network_of_the_callers_own(
    train: Run, command: Run, work: Path, environment: dict[str, str], small: list[str]
) -> None:
    """It is trained, recorded and resumed as any other, under its name, and never taken for that of its settings."""
    arguments = [sys.executable, "-c", OWN, *small, "epochs=1"]
    unnamed = subprocess.run(arguments, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert "UsageError: network=NAME must name the network" in unnamed.stderr
    subprocess.run([*arguments, "network=linear"], cwd=work, env=environment, capture_output=True, check=True)
    (run,) = runs(work)
    record = read_run(run)
    assert (record.status, record.settings["network"], record.settings["epochs"]) == ("completed", "linear", 2)
    assert "network=linear" in record.name
    assert list(load_file(run / "model.safetensors")) == ["1.bias", "1.weight"]
    assert metrics(run)["accuracy.test"][-1][1][0] > 0.7

    why = "the network linear was made by a Python program, not from settings: only that program can use it"
    for use in ("evaluate", "export"):
        done = command(use, run, *["digits.onnx"] * (use == "export"))
        assert (done.returncode, done.stderr) == (1, f"error: {why}\n"), use
    for again in (["--resume", run, "epochs=3"], ["--like", run]):
        done = train(*again)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"error: {why}")
    assert runs(work) == [run]
