"""One seed of an experiment, in a process of its own: `python -m experiments.machinery.worker`, started by `trials.py`.

Standard input has its task, a line of JSON, and stays open as long as the command lives. Standard error is for people.
"""

import json
import sys
import time
from pathlib import Path

from experiments.machinery.trials import store
from labml_bn.cli.command import run_command
from labml_bn.cli.errors import UserError
from labml_bn.cli.output import discard
from labml_bn.training.sweeps.worker import end_with_parent


def main() -> None:
    """Measure and store the seed that standard input describes."""
    started = time.time()
    task = json.loads(sys.stdin.buffer.readline())
    end_with_parent()
    discard(sys.stdout)  # what a training run prints
    import torch

    from experiments.laboratory import Trial
    from experiments.machinery import catalogue

    entry = catalogue.find(task["name"])
    if entry.code() != task["code"]:
        raise UserError(f"{entry.path} has been changed since the experiment was started: start it again")
    experiment = entry.load()
    torch.manual_seed(task["seed"])
    measured = experiment.measure(Trial(task["seed"], task["sweep"], Path(task["logs"])), **task["size"])
    store(Path(task["path"]), {"measured": measured, "started": started, "ended": time.time()})


if __name__ == "__main__":
    run_command(main)
