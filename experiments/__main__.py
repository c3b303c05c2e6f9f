"""The experiments: claims about batch normalization, measured.

    python -m experiments                 all experiments: cost, last verdict, claim
    python -m experiments bias            one of them (--help: its claim and its options)
    python -m experiments --all           those without a result of the present code; writes RESULTS.md
    python -m experiments --all --quick   each in seconds, to see that it works; its results go to logs/experiments

An experiment that was interrupted continues with the seeds that are missing: each is stored in logs/experiments/seeds
when it is measured. Training runs are in logs, as a sweep that begins with the experiment's name. To measure everything
again, delete experiments/results and logs.
"""

import sys

from experiments.machinery import command, results
from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import UsageError
from labml_bn.cli.text import table, terminal_width


def main() -> None:
    """The command."""
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        command.run_one(sys.argv[1], sys.argv[2:])
        return
    parser = Parser("experiments", __doc__, hint="the name of an experiment comes first; ")
    parser.add_argument("--all", action="store_true", help="run all experiments")
    command.add_options(parser)
    options = parser.parse_args()
    if options.all:
        command.run_all(options)
    elif options.quick or options.jobs is not None:
        raise UsageError("name an experiment, or write --all (python -m experiments lists them)")
    else:
        print(table(results.listing(results.RESULTS), terminal_width()))


if __name__ == "__main__":
    run_command(main)
