"""Faults of the disk, the files, the numbers and the clock: reported in one line, and no run is lost."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from labml_bn.records.folder import list_checkpoints
from labml_bn.records.record import read_run
from labml_bn.trained.checkpoints import FORMAT
from labml_bn.training import checkpoint
from tests.conftest import Begin, Run, metrics, runs
from tests.training.test_checkpoint import flipped
from tests.training.test_run import wait_for


@pytest.fixture
def run(full_run: Path, work: Path) -> Path:
    """A copy of a finished run, to damage."""
    return Path(shutil.copytree(full_run, work / "logs" / "batch_norm" / full_run.name))


def assert_one_line(done: "subprocess.CompletedProcess[str]", status: int, *parts: str) -> None:
    assert (done.returncode, len(done.stderr.splitlines())) == (status, 1), done.stderr
    for part in parts:
        assert part in done.stderr


Mount = Callable[[str], None]


@pytest.fixture
def disk(work: Path) -> Iterator[Mount]:
    """Mount a small disk at `logs`, or remount it with other options; the test is skipped if that is not permitted."""
    logs = work / "logs"
    logs.mkdir()

    def mount(options: str) -> None:
        again = "remount," if os.path.ismount(logs) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{again}{options}", "tmpfs", str(logs)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting a disk is not permitted here")

    yield mount
    if os.path.ismount(logs):
        subprocess.run(["umount", "-l", str(logs)], check=True)


def assert_checkpoints_are_intact(run: Path) -> None:
    paths = list((run / "checkpoints").iterdir())
    assert paths
    assert all(path.suffix == ".pt" and path.stem.isdecimal() for path in paths), paths  # nothing half-written
    for path in paths:
        assert torch.load(path, weights_only=True)["format"] == FORMAT


def test_disk_full_while_saving(disk: Mount, train: Run, work: Path, small: list[str], full_run: Path) -> None:
    """Training continues to its end; once there is room again, the run can be resumed."""
    disk("size=8m")
    done = train(*small)
    assert done.returncode == 1
    *warnings, error = done.stderr.splitlines()
    (run,) = runs(work)
    assert warnings
    for warning in warnings:
        assert warning.startswith("warning: cannot save ")
        assert "The last good checkpoint is " in warning
    assert error.startswith("error: cannot write the weights to ")
    assert "epoch 3/3:" in done.stdout
    assert_checkpoints_are_intact(run)
    disk("size=100m")
    assert train("--resume", "latest").returncode == 0
    assert metrics(run) == metrics(full_run)


def test_disk_full_while_logging(
    disk: Mount, work: Path, environment: dict[str, str], small: list[str], data_path: Path
) -> None:
    """Metrics that could not be written are kept, and written when there is room."""
    disk("size=60m")
    command = [sys.executable, "-m", "labml_bn.train", *small, "epochs=12", "checkpoint_interval=100"]
    with subprocess.Popen(
        command, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("epoch 2/12 step 4/"):
                break
        with (work / "logs" / "filler").open("wb", buffering=0) as filler:
            with contextlib.suppress(OSError):
                while True:
                    filler.write(b"0" * 4096)
            assert "warning: cannot write the log " in process.stderr.readline()
            filler.truncate(0)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    (run,) = runs(work)
    steps = [step for step, _ in metrics(run)["loss.train"]]
    assert steps == [epoch * 1000 + min(64 * step, 1000) for epoch in range(12) for step in range(1, 17)]
    assert len(metrics(run)["accuracy.test"]) == 12


@pytest.mark.slow
@pytest.mark.parametrize("size", ["4k", "64k", "2m", "6m", "12m"])
def test_a_small_disk(disk: Mount, train: Run, work: Path, small: list[str], size: str) -> None:
    """A run can be resumed, or it stops at once, with the reason in one line, and leaves nothing."""
    disk(f"size={size}")
    done = train(*small, "epochs=1")
    assert "Traceback" not in done.stderr
    if runs(work):
        (run,) = runs(work)
        assert_checkpoints_are_intact(run)
        assert checkpoint.newest(run)
        assert done.returncode == 0 or "error: cannot write " in done.stderr
    else:
        assert_one_line(done, 1, "error: cannot ", "No space left on device")
        assert "epoch" not in done.stdout
        assert list((work / "logs").glob("*/*")) == []


def test_file_size_limit(work: Path, environment: dict[str, str], small: list[str], train: Run) -> None:
    """Like a full disk, without the permission to mount one: no file can grow beyond so many bytes."""

    def train_with(limit: int) -> "subprocess.CompletedProcess[str]":
        def set_limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        command = [sys.executable, "-m", "labml_bn.train", *small]
        return subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, check=False, preexec_fn=set_limit
        )

    assert_one_line(
        train_with(1_000_000),
        1,
        "error: cannot save the first checkpoint to ",
        "checkpoints: File too large. The run was not started, as it could not be resumed: ",
    )
    assert runs(work) == []
    done = train_with(3_000_000)  # enough for the first checkpoint, which has no moments of the gradients
    assert done.returncode == 0
    (run,) = runs(work)
    warning = f"warning: cannot save {run}/checkpoints/.*: File too large. The last good checkpoint is .*/0+.pt"
    assert len(done.stderr.splitlines()) == 3
    assert all(re.fullmatch(warning, line) for line in done.stderr.splitlines())
    assert metrics(run)["accuracy.test"]


def test_logs_not_writable(disk: Mount, train: Run, small: list[str]) -> None:
    disk("size=10m,ro")
    assert_one_line(train(*small), 1, "error: cannot write the run to ", "Read-only file system")


def test_run_not_writable(disk: Mount, train: Run, full_run: Path, work: Path) -> None:
    disk("size=60m")
    run = Path(shutil.copytree(full_run, work / "logs" / "batch_norm" / full_run.name))
    disk("ro")
    assert_one_line(train("--resume", run.name, "epochs=5"), 1, f"error: cannot write the run to {run}: Read-only")


def test_a_damaged_data_file(run: Path, train: Run, work: Path, data_path: Path, environment: dict[str, str]) -> None:
    """It is downloaded again, or reported if that fails; the run is unchanged."""
    shutil.copytree(data_path, work / "data")
    images = work / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content = bytearray(images.read_bytes())
    content[5000] ^= 1
    images.write_bytes(bytes(content))
    before = (run / "log.jsonl").read_bytes()
    offline = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    kept = dict(environment)
    environment |= offline
    done = train("--resume", "latest", "epochs=4", "data_path=data")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: could not download MNIST")
    assert "Traceback" not in done.stderr
    assert (run / "log.jsonl").read_bytes() == before
    environment.clear()
    environment |= kept
    assert train("--resume", "latest", "epochs=4", f"data_path={data_path}").returncode == 0
    assert len(metrics(run)["accuracy.test"]) == 4


def test_falling_back_to_an_earlier_checkpoint(run: Path, train: Run, full_run: Path) -> None:
    newest = list_checkpoints(run)[0]
    flipped(newest)
    (run / "model.safetensors").unlink()
    done = train("--resume", "latest")
    assert_one_line(done, 0, f"warning: {newest} is damaged", "falling back to an earlier checkpoint")
    assert metrics(run) == metrics(full_run)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run, full_run))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_damaged_checkpoint_does_not_displace_good_ones(run: Path, train: Run, work: Path) -> None:
    """The run is resumed from an older one; the checkpoints that it saves from then on are kept."""
    newest, before, *_ = list_checkpoints(run)
    flipped(newest)
    (run / "checkpoints" / f".{newest.stem}.part.pt").write_bytes(b"of a process that was killed")
    done = train("--resume", "latest", "epochs=4", "keep=1", "checkpoint_interval=0.25")
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1)
    state = checkpoint.newest(run).state
    assert state["progress"] == {"epoch": 4, "step": 0, "seen": 4000}
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"000000004000.pt", state["best"]["name"]}
    assert before.name != newest.name


def test_a_checkpoint_of_another_network(run: Path, train: Run) -> None:
    for path in list_checkpoints(run):
        state = torch.load(path, weights_only=True)
        state["model"]["norm1.weight"] = torch.ones(7)
        torch.save(state, path)
    done = train("--resume", "latest", "epochs=4")
    assert_one_line(
        done, 1, f"error: the checkpoint of {run} does not match the architecture in its settings: ", "norm1.weight"
    )


def test_a_checkpoint_without_its_number_of_threads(run: Path, train: Run) -> None:
    """As earlier versions saved it: the run continues, and a warning says that its last bits may differ."""
    newest = list_checkpoints(run)[0]
    state = torch.load(newest, weights_only=True)
    del state["threads"]
    torch.save(state, newest)
    assert_one_line(
        train("--resume", "latest", "epochs=4"), 0, f"warning: {run} was trained with an unknown number of threads"
    )


def test_a_log_shorter_than_its_checkpoint(run: Path, train: Run) -> None:
    log = run / "log.jsonl"
    log.write_bytes(log.read_bytes()[:100])
    assert_one_line(train("--resume", "latest", "epochs=4"), 1, "log.jsonl is shorter than ")


def test_half_a_line_at_the_end_of_the_log(run: Path, train: Run, full_run: Path) -> None:
    with (run / "log.jsonl").open("a") as log:
        log.write('{"track": {"loss.train": [[12')
    assert train("--resume", "latest", "epochs=4").returncode == 0
    lines = (run / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["track"] for line in lines[:15]] == [
        json.loads(line)["track"] for line in (full_run / "log.jsonl").read_text().splitlines()
    ]
    assert len(metrics(run)["accuracy.test"]) == 4


@pytest.mark.parametrize(
    ("parameter", "first"), [("conv1.weight", "norm1's running_mean"), ("conv2.weight", "norm2's running_mean")]
)
def test_a_non_finite_loss(run: Path, train: Run, parameter: str, first: str) -> None:
    """The run stops at that step and names the first layer with non-finite values and the last good checkpoint."""
    newest = list_checkpoints(run)[0]
    state = torch.load(newest, weights_only=True)
    state["model"][parameter][0] = 3e38  # finite, but its products overflow
    torch.save(state, newest)
    done = train("--resume", "latest", "epochs=4")
    assert_one_line(
        done,
        1,
        f"error: epoch 4, step 1: the loss is nan: non-finite values; first in {first}. The last good checkpoint is ",
    )
    assert str(newest) in done.stderr
    assert read_run(run).status == "diverged"
    assert max(step for step, _ in metrics(run)["loss.train"]) == 3000
    assert "Traceback" in train("--resume", "latest", "epochs=4", "--traceback").stderr


def test_a_learning_rate_that_is_too_large(train: Run, work: Path, small: list[str]) -> None:
    done = train(*small, "norm=none", "optimizer.optimizer=SGD", "optimizer.learning_rate=1e5")
    assert_one_line(
        done,
        1,
        "error: epoch 1, step ",
        ": the loss is ",
        "a new run may do better with a lower optimizer.learning_rate",
    )
    assert_checkpoints_are_intact(runs(work)[0])


def test_files_deleted_while_running(begin: Begin, command: Run, work: Path, small: list[str], full_run: Path) -> None:
    """The log is restored, with a warning; without the lock file, the run is still in use by this process."""
    process = begin(*small, "epochs=1000")
    wait_for(process, "epoch 2/1000 step 4/")
    (run,) = runs(work)
    for name in ("log.jsonl", "run.lock"):
        (run / name).unlink()
    refused = command("train", "--resume", run.name, "epochs=1")
    assert refused.stderr == f"error: {run} is in use by another process\n"
    assert " running " in command("runs").stdout
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    restored, interrupted = errors.splitlines()
    assert restored == f"warning: the log {run}/log.jsonl was deleted or replaced by another process, and is restored"
    assert interrupted.startswith("interrupted: resume with: ")
    ours, theirs = metrics(run)["loss.train"], metrics(full_run)["loss.train"]
    assert ours[: len(theirs)] == theirs
    assert " interrupted " in command("runs").stdout


FAKETIME = next(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"), None)


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed (Debian: apt-get install faketime)")
def test_a_clock_that_jumps(
    work: Path, environment: dict[str, str], small: list[str], full_run: Path, command: Run
) -> None:
    """A day back in the middle of the run, then two days forward: metrics and elapsed time are unaffected."""
    clock = work / "clock"
    clock.write_text("+0")
    environment |= {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "labml_bn.train", *small], cwd=work, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 1/3 step 4"):
                clock.write_text("-1d")
            if line.startswith("epoch 2/3 step 4"):
                clock.write_text("+2d")
    assert process.returncode == 0
    (run,) = runs(work)
    times = [json.loads(line)["time"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert min(times) < time.time() - 80_000 < time.time() + 80_000 < max(times)  # it has jumped
    assert metrics(run) == metrics(full_run)
    assert 0 < read_run(run).elapsed < 600
    del environment["LD_PRELOAD"]
    shown = command("runs").stdout.splitlines()[1]
    assert re.search(r" completed .* \d+\.\d s ", shown)


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed (Debian: apt-get install faketime)")
def test_the_latest_after_the_clock_went_back(environment: dict[str, str], small: list[str], command: Run) -> None:
    """Runs are in the order in which they started; each shows the time that the clock had."""
    environment |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    for shift in ("+0", "-1d", "-2d"):
        environment["FAKETIME"] = shift
        assert command("train", *small, "epochs=1", "train_samples=64", "inner_iterations=1").returncode == 0
    environment["LD_PRELOAD"] = ""
    started = re.findall(r"\d{4}-\d\d-\d\d", command("runs").stdout)
    assert started == sorted(set(started))
    assert len(started) == 3
