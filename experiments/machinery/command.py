"""The command line of one experiment, and of all."""

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from experiments.machinery import catalogue, results
from experiments.machinery.catalogue import Entry
from experiments.machinery.results import RESULTS
from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import StoppedError, UsageError, exit_status
from labml_bn.cli.files import relative_path
from labml_bn.cli.text import duration, paragraph, printable, terminal_width

if TYPE_CHECKING:
    from experiments.machinery.trials import Trials

#: So many seeds are measured with `--quick`, unless the user says how many.
QUICK_SEEDS = 3

#: The results that are not to be committed.
ELSEWHERE = Path("logs", "experiments")


def main(file: str) -> None:
    """The command of the experiment in this file, with the arguments of the process. Exits."""
    run_command(lambda: run_one(Path(file).stem, sys.argv[1:]))


def run_one(name: str, arguments: Sequence[str]) -> None:
    """Run the experiment of this name, and print its verdict. Raises UsageError for another name, or an option."""
    entry = catalogue.find(name)
    parser = Parser(f"experiments.{name}", entry.docstring)
    add_options(parser)
    parser.add_argument("--full", action="store_true", help="in a size that takes longer than twenty minutes, if any")
    parser.add_argument("--seeds", type=int, metavar="N", help="measure the seeds 1 to N")
    job = _job(entry, parser.parse_args(arguments))
    _run([job])
    result = results.read(job.folder, name)
    for criterion in result["criteria"]:
        print(paragraph(f"{criterion['text']}: {criterion['outcome']}", terminal_width()))
    if len(result["seeds"]) == 1:
        print("One seed gives no interval, so the verdict is undecided.")
    print(f"Claim {entry.number}: {result['verdict']}, in {duration(result['seconds'])}")
    print(printable(f"Look at it: {relative_path(job.folder)}/{name}.png and {name}.json"))


def run_all(options: Namespace) -> None:
    """Run the experiments that have no result of the present code, and write the table of all results."""
    options.full, options.seeds = False, None
    every = [_job(entry, options) for entry in catalogue.entries()]
    left = [job for job in every if not job.is_done()]
    for job in every:
        if job not in left:
            print(f"{job.trials.entry.name}: already measured with this code")
    _run(left)
    print(printable(f"Results: {relative_path(results.write_table(every[0].folder))}"))


def add_options(parser: Parser) -> None:
    """Add the options that one experiment and all of them have in common."""
    parser.add_argument("--quick", action="store_true", help="in seconds, to see that it works")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="how many seeds to measure at a time (default: each core one)"
    )


@dataclass(frozen=True)
class _Job:
    """What to measure, how many seeds at a time, where its result goes, and the command that does it."""

    trials: "Trials"
    count: int
    folder: Path
    command: str

    def is_done(self) -> bool:
        """Whether there is a result of the same code, size and seeds."""
        result = results.read(self.folder, self.trials.entry.name)
        return result.get("key") == self.trials.key and len(result["seeds"]) >= self.trials.seeds


def _job(entry: Entry, options: Namespace) -> _Job:
    """What the options ask for. Raises UsageError if they are impossible."""
    for name in ("seeds", "jobs"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise UsageError(f"--{name} {number}: write a number of at least 1")
    if options.full and options.quick:
        raise UsageError("--quick and --full exclude each other")

    from experiments.machinery.trials import Trials
    from labml_bn.training.sweeps import jobs

    experiment = entry.load()
    if options.full and experiment.full is None:
        raise UsageError(f"{entry.name} has no larger size: run it without --full")
    size = {**experiment.size, **(experiment.quick if options.quick else experiment.full or {} if options.full else {})}
    default = min(QUICK_SEEDS, experiment.seeds) if options.quick else experiment.seeds
    seeds = default if options.seeds is None else options.seeds
    words = ["--quick"] * options.quick + ["--full"] * options.full
    words += [f"--seeds {seeds}"] if seeds != default else []
    folder = RESULTS
    if options.quick or options.full or seeds < default:
        folder = ELSEWHERE / (" ".join(words).replace("--", "").replace(" ", "-"))
    trials = Trials(entry, seeds, size, ELSEWHERE / "quick" if options.quick else Path("logs"))
    count = jobs.default_jobs(jobs.cores(), seeds) if options.jobs is None else options.jobs
    command = " ".join([f"python -m experiments.{entry.name}", *words])
    return _Job(trials, count, folder, command)


def _run(left: Sequence[_Job]) -> None:
    """Measure the seeds that are missing, and write each result. Raises StoppedError at a signal."""
    seeds = sum(job.trials.seeds for job in left)
    done = sum(len(job.trials.stored()) for job in left)
    try:
        with tqdm(total=seeds, initial=done, unit="seed", disable=None, leave=False, smoothing=0) as bar:
            for job in left:
                bar.set_description(job.trials.entry.name)
                job.trials.measure(job.count, bar)
                result = results.write(job.trials, job.folder, job.command)
                if len(left) > 1:
                    bar.write(f"{job.trials.entry.name}: {result['verdict']}, in {duration(result['seconds'])}")
    except KeyboardInterrupt as interrupt:
        command = shlex.join(["python", "-m", _module(), *sys.argv[1:]])
        raise StoppedError(f"what was measured is stored; continue with: {command}", exit_status(interrupt)) from None


def _module() -> str:
    """The module that this process runs."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.removesuffix(".__main__") if spec else "experiments"
