"""From a command to its first training step, relative to `import torch`: `python -m tests.benchmarks.startup`.

Each command is a process, measured from outside: `python -c "import torch"`, `python -m labml_bn.train --help`, the
imports of a run, and a run of a single step until it prints that step's metrics. They take turns.
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

from labml_bn.cli.command import run_command
from labml_bn.cli.errors import UserError
from labml_bn.data.download import ensure_files
from tests.benchmarks.command import run_part
from tests.benchmarks.measuring import ROOT, Measurements, Options, compare

#: What `python -m labml_bn.train` imports before it trains.
IMPORTS = "import labml_bn.training.run"

#: A line of `python -X importtime`: the module's own microseconds, those with what it imports, and its name.
LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")


def measure(options: Options) -> Measurements:
    """Every command against `import torch`, then what the imports consist of."""
    ensure_files("MNIST", options.data)
    torch, help_, imports = "import torch", "python -m labml_bn.train --help", "the imports of a run"
    first, whole = "a run until its first step", "a run of one step, whole process"
    times: dict[str, list[float]] = defaultdict(list)
    shares: dict[str, list[float]] = defaultdict(list)
    warm_up = 0 if options.quick else 1
    for turn in range(warm_up + (1 if options.quick else 3 * options.repeats)):
        measured = {
            torch: process("-c", "import torch")[0],
            help_: process("-m", "labml_bn.train", "--help")[0],
            imports: process("-c", IMPORTS)[0],
        }
        measured[first], measured[whole] = one_step(options)
        _, stderr = process("-X", "importtime", "-c", IMPORTS)
        if turn >= warm_up:
            for name, seconds in measured.items():
                times[name].append(seconds)
            for package, share in shares_of_imports(stderr).items():
                shares[package].append(share)
    for name in (help_, imports, first, whole):
        yield compare(name, torch, times[name], times[torch])
    medians = {package: statistics.median(share) for package, share in shares.items()}
    largest = sorted(medians, key=lambda package: -medians[package])[:5]
    yield "of the time of the imports: " + ", ".join(f"{package} {medians[package]:.0%}" for package in largest)


def process(*arguments: str) -> tuple[float, str]:
    """Run `python ARGUMENTS`: the seconds of the whole process, and what it wrote to stderr."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise UserError(f"python {' '.join(arguments)} failed: {done.stderr.strip()}")
    return seconds, done.stderr


def one_step(options: Options) -> tuple[float, float]:
    """A run of one step: the seconds until it prints the step's metrics, with a validation on one image, and in all."""
    settings = ["epochs=1", "train_samples=64", "train_batch_size=64", "valid_samples=1", "inner_iterations=1"]
    settings += [f"data_path={options.data}", "device.use_cuda=false"]
    with tempfile.TemporaryDirectory() as logs:
        command = [sys.executable, "-m", "labml_bn.train", *settings, f"logs_path={logs}"]
        first, output = None, ""
        started = time.perf_counter()
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            for line in run.stdout or ():
                output += line
                if first is None and line.startswith("epoch 1/1"):
                    first = time.perf_counter() - started
        total = time.perf_counter() - started
    if run.returncode != 0 or first is None:
        raise UserError(f"the run of one step failed: {output.strip()}")
    return first, total


def shares_of_imports(importtime: str) -> dict[str, float]:
    """The share of each package in the time of all imports, from the output of `python -X importtime`."""
    seconds: dict[str, int] = defaultdict(int)
    for own, module in LINE.findall(importtime):
        package = module.partition(".")[0]
        seconds["the standard library" if package in sys.stdlib_module_names else package] += int(own)
    total = sum(seconds.values())
    return {package: own / total for package, own in seconds.items()}


if __name__ == "__main__":
    run_command(lambda: run_part("startup", __doc__, measure))
