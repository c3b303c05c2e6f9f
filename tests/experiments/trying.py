"""An experiment as its test runs it: in this process, in its quick size, with changes that refute the claim."""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from experiments.laboratory import Experiment, Trial, stacked, verdict
from experiments.machinery.catalogue import find
from experiments.machinery.trials import dumped


def verdict_of(module: ModuleType, *, seeds: int = 2, **changes: Any) -> str:
    """The verdict of an experiment in its quick size, with these arguments of `measure` changed. Also draws it."""
    experiment: Experiment = module.EXPERIMENT
    name = module.__name__.rpartition(".")[2]
    assert find(name).number > 0  # its docstring has the form of the others
    trials = []
    for seed in range(1, seeds + 1):
        torch.manual_seed(seed)
        size = {**experiment.size, **experiment.quick, **changes}
        trials.append(experiment.measure(Trial(seed, name, Path("logs")), **size))
    assert dumped([experiment.size, experiment.quick, experiment.full])  # it is JSON, as a process gets it
    found = stacked(trials)
    assert experiment.draw(found).axes
    return verdict(experiment.judge(found))
