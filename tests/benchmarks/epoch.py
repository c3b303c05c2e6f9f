"""One epoch relative to what a user would run instead: `python -m tests.benchmarks.epoch`.

Ours is `python -m labml_bn.train epochs=1`, with its log, validations and checkpoints. Each program in `contenders/` is
the same network, optimizer and batch size. Two times are compared: that of the loop, which is one epoch and a
validation on the test images, and that of the whole process, from its start to its end. The images are on the disk
before. The programs take turns, `--repeats` times.
"""

import functools
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labml_bn.cli.command import run_command
from labml_bn.cli.errors import UserError
from labml_bn.data.download import ensure_files
from labml_bn.records.folder import LOG
from tests.benchmarks.command import run_part
from tests.benchmarks.measuring import ROOT, Measurements, Options, Row, compare

#: The programs, and what each is.
CONTENDERS = {
    "annotated": "labml's annotated implementation",
    "dataloader": "plain PyTorch with DataLoader",
    "in_memory": "plain PyTorch, images in memory",
    "no_norm": "plain PyTorch, images in memory, no normalization",
}

INSTALL = "pip install --no-deps labml-nn==0.5.1"


@dataclass(frozen=True)
class Timed:
    """One run of a program: the seconds of its loop and of its whole process, and the test accuracy at its end."""

    loop: float
    total: float
    accuracy: float


@dataclass(frozen=True)
class Images:
    """How many training and test images a program uses, and the folder that they are in."""

    data: Path
    train: int = 60_000
    test: int = 10_000


#: A program to time: it gets the images and the number of the turn.
Program = Callable[[Images, int], Timed]


def measure(options: Options) -> Measurements:
    """Loop and whole process against every program."""
    ensure_files("MNIST", options.data)
    programs: dict[str, Program] = {"ours": lambda images, turn: run_ours(images)}
    for name, what in CONTENDERS.items():
        if name == "annotated" and importlib.util.find_spec("labml_nn") is None:
            yield Row("an epoch", f"{what}: not installed ({INSTALL})")
        else:
            programs[name] = functools.partial(_run_contender_in_turn, name)

    timed = alternately(programs, options, range(options.repeats))
    for name in list(programs)[1:]:
        for what, seconds in (("loop", lambda run: run.loop), ("whole process", lambda run: run.total)):
            ours, theirs = (list(map(seconds, timed[program])) for program in ("ours", name))
            yield compare(f"an epoch, {what}", CONTENDERS[name], ours, theirs)
    for name, runs in timed.items():
        accuracy = statistics.median(run.accuracy for run in runs)
        yield f"test accuracy after the epoch, {CONTENDERS.get(name, name)}: {accuracy:.2%} (median of {len(runs)})"


def _run_contender_in_turn(name: str, images: Images, turn: int) -> Timed:
    return run_contender(name, images)


def alternately(programs: Mapping[str, Program], options: Options, turns: Sequence[int]) -> dict[str, list[Timed]]:
    """The runs of each program, one per turn, after a warm-up. The order of the programs changes with every turn."""
    few = Images(options.data, train=640, test=200)
    if not options.quick:
        for program in programs.values():
            program(few, 0)  # warm-up: the files of the libraries are in memory, and what is compiled is cached
    timed: dict[str, list[Timed]] = {name: [] for name in programs}
    for turn in turns:
        for name in list(programs)[:: 1 if turn % 2 == 0 else -1]:
            timed[name].append(programs[name](few if options.quick else Images(options.data), turn))
    return timed


def run_ours(images: Images, *arguments: str) -> Timed:
    """Run `python -m labml_bn.train` with these arguments for an epoch, and read the time of its loop from its log."""
    with tempfile.TemporaryDirectory() as logs:
        settings = [f"train_samples={images.train}", f"valid_samples={images.test}", f"data_path={images.data}"]
        settings += ["epochs=1", f"logs_path={logs}", "device.use_cuda=false"]
        total, _ = run_module("labml_bn.train", *arguments, *settings)
        (log,) = Path(logs).glob(f"*/*/{LOG}")
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    (accuracy,) = [points for line in lines for _, points in line["track"].get("accuracy.test", [])][-1]
    return Timed(lines[-1]["elapsed"], total, accuracy)


def run_contender(name: str, images: Images, *arguments: str) -> Timed:
    """Run a program in `contenders/`; the last line that it prints is JSON."""
    sizes = ["--data", str(images.data), "--train", str(images.train), "--test", str(images.test)]
    total, output = run_module(f"tests.benchmarks.contenders.{name}", *sizes, *arguments)
    printed = json.loads(output.splitlines()[-1])
    return Timed(printed["loop_seconds"], total - printed["not_counted_seconds"], printed["accuracy"])


def run_module(module: str, *arguments: str) -> tuple[float, str]:
    """Run `python -m MODULE ARGUMENTS`: the seconds of the whole process, and what it printed."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise UserError(f"{module} failed: {done.stderr.strip() or done.stdout.strip()}")
    return seconds, done.stdout


if __name__ == "__main__":
    run_command(lambda: run_part("epoch", __doc__, measure))
