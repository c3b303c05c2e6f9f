"""Train a network with batch normalization on MNIST.

    python -m labml_bn.train                                    the defaults: 10 epochs, Adam at 0.001
    python -m labml_bn.train configs/no_norm.yaml               another experiment, from a config file
    python -m labml_bn.train no_norm                            the same, from any folder
    python -m labml_bn.train epochs=1 optimizer.learning_rate=0.01
    python -m labml_bn.train configs/smoke.yaml norm=torch      keys on the command line override the file
    python -m labml_bn.train --resume latest                    resume a run that was interrupted or killed
    python -m labml_bn.train --resume RUN epochs=20             resume a finished run, for more epochs
    python -m labml_bn.train --like RUN seed=6                  a new run with the settings of another, but this seed
    python -m labml_bn.train norm=batch_norm,none seed=1..5     a sweep: all ten runs, several at a time
    python -m labml_bn.train --resume norm-seed                 what is missing of a sweep
    python -m labml_bn.train --list                             every key, its type, default, options and meaning

The first run downloads the data set to ./data. Each run is a new folder in ./logs. A run that was interrupted by
Ctrl-C resumes at the same step, one that was killed at its last checkpoint; the result is the same as without the
interruption.
"""

import os
import shlex
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import UsageError, UserError
from labml_bn.training.stopping import deferred_signals

if TYPE_CHECKING:
    from labml_bn.training.run import Finished
    from labml_bn.training.sweeps.sweep import Outcome

# torch and labml take a second or two to import: --help does not wait for them. A signal waits until they are imported:
# torch aborts the process if Python raises an exception in some of its code.


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.train", __doc__, hint="settings are written key=value; ")
    parser.add_argument("settings", nargs="*", metavar="[CONFIG.yaml] key=value", help="a config file, and single keys")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument(
        "--resume",
        metavar="RUN",
        help="a run's folder, its uuid or the beginning of it, or `latest`; or a sweep's name",
    )
    earlier.add_argument("--like", metavar="RUN", help="train a new run with the settings of this one")
    parser.add_argument("--name", metavar="NAME", help="a name for the run, or for the sweep")
    parser.add_argument("--tag", metavar="TAG", action="append", default=[], help="a tag for each run; can be repeated")
    parser.add_argument("--note", metavar="TEXT", help="a note for each run")
    parser.add_argument("--sweep", metavar="NAME", help="the sweep that the runs, or the run, are part of")
    parser.add_argument("--jobs", type=int, metavar="N", help="how many runs of a sweep to train at the same time")
    parser.add_argument("--dry-run", action="store_true", help="print a command for each run of a sweep, and exit")
    parser.add_argument("--list", action="store_true", help="print every key and exit")
    arguments = parser.parse_intermixed_args()

    from labml_bn import settings

    if arguments.list:
        print(_list_of_keys())
        return
    grid = settings.read_grid(arguments.settings)
    if arguments.resume is None and arguments.like is None:
        grid.check()
    written = _written(arguments)
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UsageError(f"--jobs {arguments.jobs}: write how many runs to train at the same time, at least 1")

    with deferred_signals():
        from labml_bn.training import run
        from labml_bn.training.sweeps import sweep

    runs = None
    if arguments.resume is not None and sweep.is_sweep(arguments.resume, grid.settings):
        runs = sweep.to_resume(arguments.resume, grid.one())
    else:
        if arguments.like is not None:
            grid = grid.on(run.settings_of(arguments.like, grid.settings))
            grid.check()
        if grid.swept:
            if arguments.name is not None and arguments.sweep is not None:
                raise UsageError("a sweep has one name: write --name or --sweep")
            written.pop("name", None)
            runs = sweep.to_start(grid, arguments.name if arguments.sweep is None else arguments.sweep, written)
    if arguments.dry_run:
        if runs is None:
            raise UsageError("--dry-run prints the commands of a sweep, and this is one run")
        for command in runs.commands():
            print(command)
        return

    from labml_bn.cli.output import continue_without_output

    continue_without_output()  # `train | head` loses the lines, not the run
    if runs is not None:
        _report_sweep(runs.train(arguments.jobs))
    elif arguments.resume is not None:
        _report(run.resume(arguments.resume, grid.one()))
    elif arguments.sweep is not None:
        _report(sweep.train_one(grid.settings, arguments.sweep, written))
    else:
        _report(run.start(grid.settings, written=written))


def _written(arguments: Namespace) -> dict[str, Any]:
    """The first notes of each run. Raises UsageError if they are for a run that is resumed."""
    written = {"name": arguments.name, "tags": arguments.tag, "note": arguments.note}
    written = {name: value for name, value in written.items() if value}
    if arguments.resume is not None and (written or arguments.sweep is not None):
        raise UsageError(
            "--name, --tag, --note and --sweep are for new runs, and --resume continues one that has its own"
        )
    return written


def _report(finished: "Finished | None") -> None:
    """Print what a run has reached, and what to do with it."""
    from labml_bn.cli.text import duration, printable

    if finished is None:
        return
    if finished.test is not None:
        correct = f"{finished.test.correct} of {finished.test.images}"
        print(f"Final accuracy {finished.test.accuracy:.2%} ({correct}) in {duration(finished.elapsed)}")
        if finished.guesses:
            print("This cannot be told from guessing: try another learning rate (lr=...) or optimizer, or more epochs.")
    folder, where = os.path.relpath(finished.folder), _logs_argument(finished.folder.parent.parent)
    print(printable(f"Run: {folder}"))
    print("Look at it:")
    for command in ("evaluate RUN", "predict RUN IMAGE.png", f"compare RUN latest:5{where}", f"dashboard{where}"):
        print(printable(f"  python -m labml_bn.{command.replace('RUN', shlex.quote(folder))}"))


def _report_sweep(outcome: "Outcome") -> None:
    """Print how a sweep ended. Raises UserError if runs have failed."""
    from labml_bn.cli.text import duration, printable

    runs = f"{outcome.runs} run{'s' * (outcome.runs != 1)}"
    ended = [(outcome.diverged, "diverged"), (outcome.failed, "failed")]
    unsuccessful = " and ".join(f"{number} {how}" for number, how in ended if number)
    if outcome.elapsed is not None:
        print(f"{runs}{', ' * bool(unsuccessful)}{unsuccessful} in {duration(outcome.elapsed)}", flush=True)
    if outcome.diverged + outcome.failed < outcome.runs:
        command = f"python -m labml_bn.compare {outcome.name}{_logs_argument(outcome.logs)}"
        print(printable(f"Compare them: {command}"), flush=True)
    if unsuccessful:
        again = f" (--resume {outcome.name} tries again those that failed)" if outcome.failed else ""
        raise UserError(f"of {runs}, {unsuccessful}{again}")


def _logs_argument(folder: Path) -> str:
    """The argument with which other commands find the folder of the runs, if they need one."""
    logs = os.path.relpath(folder)
    return "" if logs == "logs" else f" --logs {shlex.quote(logs)}"


def _list_of_keys() -> str:
    from labml_bn.cli.text import table, terminal_width
    from labml_bn.settings import KEYS, Range, as_typed, short

    rows = [["key", "short", "default", "type", "options", "meaning"]]
    for name, key in KEYS.items():
        options = key.takes.words if isinstance(key.takes, Range) else ", ".join(key.takes or ())
        brief = "" if short(name) == name else short(name)
        rows.append([name, brief, as_typed(key.default), key.type.__name__, options, key.meaning])
    return table(rows, terminal_width())


if __name__ == "__main__":
    run_command(main)
