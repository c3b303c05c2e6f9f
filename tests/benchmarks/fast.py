"""configs/fast.yaml against a published recipe for 99 % in one epoch: `python -m tests.benchmarks.fast`.

Both are trained with the seeds 1 to 20, alternately. Their loops, an epoch with its validation on the test images, and
their whole processes are compared, and their mean test accuracies given.
"""

import statistics

from labml_bn.cli.command import run_command
from labml_bn.data.download import ensure_files
from tests.benchmarks.command import run_part
from tests.benchmarks.epoch import Program, alternately, run_contender, run_ours
from tests.benchmarks.measuring import Measurements, Options, compare

SEEDS = range(1, 21)

RECIPE = "the published recipe in plain PyTorch"

PROGRAMS: dict[str, Program] = {
    "fast.yaml": lambda images, seed: run_ours(images, "fast", f"seed.seed={seed}"),
    RECIPE: lambda images, seed: run_contender("one_cycle", images, "--seed", str(seed)),
}


def measure(options: Options) -> Measurements:
    """Loop and whole process, and both accuracies."""
    ensure_files("MNIST", options.data)
    timed = alternately(PROGRAMS, options, SEEDS[:1] if options.quick else SEEDS)
    ours, theirs = timed["fast.yaml"], timed[RECIPE]
    yield compare("an epoch of fast.yaml, loop", RECIPE, [run.loop for run in ours], [run.loop for run in theirs])
    yield compare(
        "an epoch of fast.yaml, whole process", RECIPE, [run.total for run in ours], [run.total for run in theirs]
    )
    for name, runs in timed.items():
        yield f"mean test accuracy over {len(runs)} seeds, {name}: {interval([run.accuracy for run in runs])}"


def interval(accuracies: list[float]) -> str:
    """The mean with its standard error, and the range."""
    mean, low, high = statistics.mean(accuracies), min(accuracies), max(accuracies)
    error = statistics.stdev(accuracies) / len(accuracies) ** 0.5 if len(accuracies) > 1 else float("nan")
    return f"{mean:.3%} (standard error {error:.3%}; {low:.2%} to {high:.2%})"


if __name__ == "__main__":
    run_command(lambda: run_part("fast", __doc__, measure))
