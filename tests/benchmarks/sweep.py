"""How many runs of a sweep to train at a time: `python -m tests.benchmarks.sweep`.

The same sweep over eight seeds, an epoch each, with `--jobs` 1, 2, 4 and so on up to the number of cores. Each process
gets its share of them. The default of `--jobs` is chosen by these times. The sweeps take turns, `--repeats` times.
"""

import os
import tempfile
from itertools import takewhile

from labml_bn.cli.command import run_command
from labml_bn.data.download import ensure_files
from tests.benchmarks.command import run_part
from tests.benchmarks.epoch import run_module
from tests.benchmarks.measuring import Measurements, Options, compare

RUNS = 8


def measure(options: Options) -> Measurements:
    """The whole sweep with each number of processes, relative to one at a time."""
    ensure_files("MNIST", options.data)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = [1, 2] if options.quick else list(takewhile(lambda number: number <= cores, (1, 2, 4, 8)))
    seconds: dict[int, list[float]] = {number: [] for number in jobs}
    for turn in range(options.repeats):
        for number in jobs[:: 1 if turn % 2 == 0 else -1]:
            seconds[number].append(sweep(number, options))
    for number in jobs[1:]:
        yield compare(f"a sweep of {RUNS} runs, --jobs {number}", "--jobs 1", seconds[number], seconds[1])


def sweep(jobs: int, options: Options) -> float:
    """The seconds of a sweep with so many processes at a time, with the start of each."""
    images = ["train_samples=640", "valid_samples=200"] if options.quick else []
    runs = 2 if options.quick else RUNS
    with tempfile.TemporaryDirectory() as logs:
        settings = [f"data_path={options.data}", f"logs_path={logs}", "epochs=1", "device.use_cuda=false", *images]
        total, _ = run_module("labml_bn.train", f"seed.seed=1..{runs}", *settings, "--jobs", str(jobs))
    return total


if __name__ == "__main__":
    run_command(lambda: run_part("sweep", __doc__, measure))
