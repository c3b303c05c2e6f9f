"""`python -m labml_bn.train`, as a user runs it: in a separate process, in an empty folder."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from labml_bn.records.record import read_run
from tests.conftest import Begin, Run, another, metrics, runs

SMOKE = ["epochs=2", "train_samples=2000", "valid_samples=1000", "inner_iterations=4", "device.use_cuda=false"]


def setting_of(data_path: Path) -> str:
    return f"data_path={data_path}"


def test_a_run(train: Run, work: Path, data_path: Path) -> None:
    """What is printed to a pipe and what is logged agree."""
    done = train(*SMOKE, "norm=batch_norm", "seed.seed=3", setting_of(data_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\r" not in done.stdout
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    number = r"\d+\.\d+"
    validation = rf"train loss {number} accuracy {number}%, valid loss {number} accuracy {number}%, [\d,]+ images/s"
    assert sum(re.fullmatch(rf"epoch [12]/2 step \d+/32: {validation}", line) is not None for line in lines) == 8
    assert (
        sum(
            re.fullmatch(rf"epoch [12]/2: test loss {number} accuracy {number}%, {number} s", line) is not None
            for line in lines
        )
        == 2
    )

    (run,) = runs(work)
    assert f"Run: logs/batch_norm/{run.name}" in lines
    logged = metrics(run)
    assert [step for step, _ in logged["loss.train"]] == [
        epoch * 2000 + min(64 * step, 2000) for epoch in range(2) for step in range(1, 33)
    ]
    validations = [epoch * 2000 + seen for epoch in range(2) for seen in (512, 1024, 1536, 2000)]
    for name in ("accuracy.train", "loss.valid", "accuracy.valid"):
        assert [step for step, _ in logged[name]] == validations
    for layer, channels in (("norm1", 20), ("norm2", 50), ("norm3", 500)):
        for estimate in ("running_mean", "running_var"):
            points = logged.pop(f"bn.{layer}.{estimate}")
            assert [(step, len(values)) for step, values in points] == [(step, channels) for step in validations]
    assert set(logged) == {f"{what}.{split}" for what in ("loss", "accuracy") for split in ("train", "valid", "test")}
    (correct,) = re.search(r"Final accuracy .* \((\d+) of 1000\)", done.stdout).groups()  # type: ignore[union-attr]
    assert logged["accuracy.test"][-1] == (4000, [int(correct) / 1000])
    assert int(correct) > 800

    configs = yaml.safe_load((run / "configs.yaml").read_text())
    assert configs["epochs"]["value"] == 2
    assert configs["optimizer.learning_rate"]["computed"] == 0.001
    assert configs["versions"]["computed"].startswith("labml_bn ")
    assert yaml.safe_load((run / "run.yaml").read_text())["comment"].startswith("epochs=2 train_samples=2000")
    (end,) = (run / "run_log.jsonl").read_text().splitlines()
    assert json.loads(end)["status"] == "completed"


def test_the_commands_that_it_prints(command: Run, work: Path, data_path: Path) -> None:
    """The commands printed at the end of a run work when copied."""
    done = command("train", *SMOKE, setting_of(data_path))
    lines = done.stdout.splitlines()
    named = [line.split() for line in lines[lines.index("Look at it:") + 1 :]]
    assert [words[:2] for words in named] == [["python", "-m"]] * len(named)
    (evaluate,) = (words for words in named if words[2] == "labml_bn.evaluate")
    shown = command("evaluate", *evaluate[3:])
    assert (shown.returncode, shown.stderr) == (0, "")
    (accuracy,) = re.search(r"Final accuracy (\S+) ", done.stdout).groups()  # type: ignore[union-attr]
    assert f"accuracy {accuracy} (" in shown.stdout


@pytest.mark.parametrize("norm", ["torch", "none"])
def test_the_other_norms(train: Run, work: Path, data_path: Path, norm: str) -> None:
    done = train(*SMOKE, f"norm={norm}", setting_of(data_path))
    assert (done.returncode, done.stderr) == (0, "")
    logged = metrics(runs(work)[0])
    assert ("bn.norm1.running_mean" in logged) == (norm == "torch")


def test_same_seed_same_metrics(train: Run, work: Path, data_path: Path) -> None:
    """Two runs agree to the last bit, in every metric; another seed gives another run."""
    for seed in (3, 3, 4):
        train(*SMOKE, f"seed.seed={seed}", setting_of(data_path))
    first, again, other = (metrics(run) for run in runs(work))
    assert first == again
    assert first["loss.train"] != other["loss.train"]


@pytest.mark.parametrize(("dtype", "steps", "tolerance"), [("float32", 10, 1e-5), ("float64", 100, 1e-6)])
def test_our_layer_trains_as_pytorchs(
    train: Run, work: Path, data_path: Path, dtype: str, steps: int, tolerance: float
) -> None:
    """From the same seed both give the same losses, until rounding errors have grown."""
    for norm in ("batch_norm", "torch"):
        done = train(
            "epochs=1",
            "train_samples=6400",
            "valid_samples=100",
            f"norm={norm}",
            f"dtype={dtype}",
            "channels_last=false",
            setting_of(data_path),
        )
        assert done.returncode == 0, done.stderr
    ours, theirs = ([values[0] for _, values in metrics(run)["loss.train"][:steps]] for run in runs(work))
    assert len(ours) == steps
    assert ours == pytest.approx(theirs, rel=tolerance)


def losses(run: Path) -> list[tuple[int, list[float]]]:
    return metrics(run)["loss.train"]


def test_like_another_run(train: Run, work: Path, data_path: Path, environment: dict[str, str]) -> None:
    """From another folder, with its data; and from labml's record of its settings, as a config file."""
    (work / "data").symlink_to(data_path)
    done = train("epochs=1", *SMOKE[1:], "seed=3", "lr=0.002", "norm=none")
    assert done.returncode == 0, done.stderr
    (run,) = runs(work)
    (work / "deeper").mkdir()
    like = [sys.executable, "-m", "labml_bn.train", "--like", "latest", "logs_path=../logs"]
    repeated = subprocess.run(like, cwd=work / "deeper", env=environment, capture_output=True, text=True, check=False)
    assert (repeated.returncode, repeated.stderr) == (0, f"settings of ../logs/batch_norm/{run.name}\n")
    assert list((work / "deeper").iterdir()) == []
    assert train(run / "configs.yaml", "batch_size=50").returncode == 0
    _, same, other = runs(work)
    assert losses(same) == losses(run)
    assert losses(other) != losses(run)
    expected = read_run(run).settings
    assert read_run(same).settings == {**expected, "data_path": "../data", "logs_path": "../logs"}
    assert read_run(other).settings == {**expected, "train_batch_size": 50}


def test_like_a_run_that_is_damaged(train: Run, trained: Path, work: Path) -> None:
    run = another(trained, work / "logs", "aaaa0000")
    damaged = "error: logs/batch_norm/aaaa0000/configs.yaml has no settings: it is damaged\n"
    for content, status, error in (
        (None, 1, damaged),
        ("", 1, damaged),
        ("epochs: [", 1, damaged),
        ("epochs: {value: many, computed: null}", 2, "error: logs/batch_norm/aaaa0000/configs.yaml: epochs must be an"),
    ):
        (run / "configs.yaml").unlink()
        if content is not None:
            (run / "configs.yaml").write_text(content)
        done = train("--like", "aaaa")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
        assert done.stderr.startswith(error)
        (run / "configs.yaml").touch()


@pytest.mark.slow
def test_one_epoch_reaches_98_5_percent(train: Run, work: Path, data_path: Path) -> None:
    """On the full data set, with the defaults."""
    done = train("epochs=1", setting_of(data_path))
    assert done.returncode == 0, done.stderr
    (run,) = runs(work)
    ((step, (accuracy,)),) = metrics(run)["accuracy.test"]
    assert step == 60_000
    assert accuracy >= 0.985
    assert "of 10000" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epoch=1"], "error: unknown key 'epoch': did you mean epochs?"),
        (["epochs=-1"], "error: epochs must be at least 1, got -1"),
        (["optimizer.learning_rate=abc"], "error: optimizer.learning_rate must be a number, got 'abc'"),
        (
            ["smoke", "no_norm"],
            "error: 'no_norm' cannot follow 'smoke': write one config file, and settings as key=value",
        ),
        (["--like", "latest", "--resume", "latest"], "error: argument --resume: not allowed with argument --like"),
        (["missing.yaml"], "error: cannot read the config file missing.yaml: No such file or directory"),
        (["--epochs", "3"], "error: unrecognized arguments: --epochs"),
    ],
)
def test_wrong_use(train: Run, work: Path, arguments: list[str], message: str) -> None:
    """One line, status 2, and nothing was downloaded or written."""
    done = train(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert list(work.iterdir()) == []


def test_without_any_source_nothing_is_left_behind(train: Run, work: Path, environment: dict[str, str]) -> None:
    environment |= {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = train("epochs=1")
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: could not download MNIST (")
    assert "by hand" in error
    assert "Traceback" not in done.stderr
    assert not (work / "logs").exists()


@pytest.mark.parametrize("place", ["logs", "home"])
def test_nowhere_to_write(train: Run, work: Path, data_path: Path, environment: dict[str, str], place: str) -> None:
    if place == "logs":
        (work / "logs").write_text("a file where the folder should be")
    else:
        environment["HOME"] = str(work / "missing" / "home")
        (work / "missing").write_text("")
    done = train(*SMOKE, setting_of(data_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write")
    assert done.stderr.count("\n") == 1


def test_help_and_list(train: Run, work: Path) -> None:
    helped = train("--help")
    assert helped.returncode == 0
    assert "key=value" in helped.stdout
    listed = train("--list")
    assert listed.returncode == 0
    rows = [line.split() for line in listed.stdout.splitlines()]
    assert rows[1][:6] == ["epochs", "10", "int", "at", "least", "1"]
    assert any(row[:4] == ["optimizer.learning_rate", "lr", "0.001", "float"] for row in rows)
    assert list(work.iterdir()) == []


def test_ctrl_c(begin: Begin, work: Path, data_path: Path) -> None:
    """Status 130, one line, and a log that is complete up to the last batch."""
    process = begin("epochs=50", "train_samples=2000", "valid_samples=100", setting_of(data_path))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/50 step"):
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    (run,) = runs(work)
    assert error == f"interrupted: resume with: python -m labml_bn.train --resume logs/batch_norm/{run.name}\n"
    assert json.loads((run / "run_log.jsonl").read_text())["status"] == "interrupted"
    steps = [step for step, _ in metrics(run)["loss.train"]]
    expected = [epoch * 2000 + min(64 * step, 2000) for epoch in range(50) for step in range(1, 33)]
    assert len(steps) >= 3
    assert steps == expected[: len(steps)]


@pytest.mark.parametrize("seconds", [1.0, 2.0, 3.0])
def test_ctrl_c_while_starting(begin: Begin, data_path: Path, seconds: float) -> None:
    """No traceback, whatever is being imported or read at that moment."""
    process = begin("epochs=50", setting_of(data_path))
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    try:
        _, error = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:  # Python ignores an interrupt during a callback: press again
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    # During the code of an extension the signal ends the process itself, for which a shell reports 130 too.
    assert process.returncode in {130, -signal.SIGINT}
    assert error.startswith("interrupted")
    assert error.count("\n") == 1


#: A run that gets Ctrl-C while its kernel is loaded, in a callback, where Python ignores exceptions.
CALLED_BACK = """
import ctypes, os, signal, sys
from labml_bn.cli.command import run_command
from labml_bn.training import run

def load(device):
    ctypes.CFUNCTYPE(None)(lambda: (os.kill(os.getpid(), signal.SIGINT), sum(range(10)), None)[-1])()

def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    run.start({"epochs": 50, "train_samples": 1000, "data_path": sys.argv[1]})

run.load = load
run_command(main)
"""


def test_ctrl_c_in_a_callback(work: Path, environment: dict[str, str], data_path: Path) -> None:
    command = [sys.executable, "-c", CALLED_BACK, str(data_path)]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert not (work / "logs" / "batch_norm").exists()


@pytest.mark.parametrize("output", ["/dev/full", None])
def test_nowhere_to_print(work: Path, environment: dict[str, str], data_path: Path, output: str | None) -> None:
    """The run is trained as usual; a full disk is reported in one line."""
    command = " ".join(
        [sys.executable, "-m", "labml_bn.train", *SMOKE, setting_of(data_path), f">{output}" if output else ">&-"]
    )
    done = subprocess.run(
        command, shell=True, cwd=work, env=environment, stderr=subprocess.PIPE, text=True, check=False
    )
    lost = "warning: cannot write the output: No space left on device; the rest of it is lost\n"
    assert (done.returncode, done.stderr) == (0, lost if output else "")


def test_runs_in_the_working_directory(command: Run, work: Path, data_path: Path) -> None:
    """If the runs are stored in the working directory, Python still finds the package."""
    for _ in range(2):
        done = command("train", *SMOKE, "logs_path=.", setting_of(data_path))
        assert (done.returncode, done.stderr) == (0, "")
    assert command("evaluate", "latest", "--logs", ".").returncode == 0
