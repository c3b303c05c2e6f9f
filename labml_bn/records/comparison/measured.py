"""What a group's runs have logged, cut to the steps that all of them have: only these can be averaged."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labml_bn.records.comparison.estimates import Estimate, estimate
from labml_bn.records.comparison.groups import Group, group_runs
from labml_bn.records.record import RUNNING, Record, Series
from labml_bn.records.results import possible, results

_TEST = "accuracy.test"

Metrics = Mapping[str, Series]


@dataclass(frozen=True)
class Measured:
    """A group with the metrics of its runs.

    `logged` has the metrics of every run by its folder; impossible values are NaN. `averaged` are the runs that are in
    the means: those of `group.runs` that have been tested at least once, if there are any. `common` has their metrics
    at the steps that all of them have.
    """

    group: Group
    logged: Mapping[Path, Metrics]
    averaged: tuple[Record, ...]
    common: tuple[Metrics, ...]

    @property
    def epochs(self) -> int:
        """After how many epochs the final values are."""
        return max((len(metrics[_TEST].steps) for metrics in self.common if _TEST in metrics), default=0)

    def by_seed(self, name: str) -> dict[int, float]:
        """A result (`records/results.py`) or `time` in seconds, for each seed.

        There is no time if the runs have different lengths.
        """
        if name == "time":
            if len(set(self._lengths())) > 1:
                return {}
            return {run.settings["seed.seed"]: run.elapsed for run in self.averaged}
        values = (results(metrics).get(name, float("nan")) for metrics in self.common)
        return {run.settings["seed.seed"]: value for run, value in zip(self.averaged, values, strict=True)}

    def estimate(self, name: str) -> Estimate:
        """The mean over the seeds of a result or the time."""
        return estimate(list(self.by_seed(name).values()))

    @property
    def n(self) -> str:
        """How many runs are averaged, and how many diverged: `n = 4, 1 diverged`."""
        diverged = f", {len(self.group.diverged)} diverged" if self.group.diverged else ""
        return f"n = {len(self.averaged)}{diverged}"

    def remarks(self) -> list[str]:
        """What is not in the means, and why."""
        found = []
        if self.group.diverged:
            found.append(self.n)
        if self.group.older:
            found.append(f"{_count(len(self.group.older))} with a seed of a newer one left out")
        untested = len(self.group.runs) - len(self.averaged)
        if untested:
            found.append(f"{_count(untested)} not tested yet left out")
        epochs = self.group.settings["epochs"]
        if self.averaged and self.epochs < epochs:
            part = f"averaged over the first {self.epochs} of {epochs} epochs" if self.epochs else "no epoch to average"
            running = sum(run.status == RUNNING for run in self.averaged)
            found.append(f"{part} ({running} still running)" if running else part)
        return found

    def _lengths(self) -> list[int]:
        logged = [self.logged[run.folder] for run in self.averaged]
        return [len(metrics[_TEST].steps) if _TEST in metrics else 0 for metrics in logged]


def read_groups(runs: Sequence[Record], metrics: Mapping[Path, Metrics] | None = None) -> list[Measured]:
    """The groups of some runs, with the metrics that are shown. `metrics` has those of each folder, if already read."""
    metrics = metrics or {run.folder: run.metrics() for run in runs}
    return [_measured(group, metrics) for group in group_runs(runs)]


def at_common_steps(runs: Sequence[Metrics]) -> tuple[Metrics, ...]:
    """The metrics that all of some runs have, at the steps that all have.

    A metric with different numbers of channels is left out. Of several values at a step the last counts.
    """
    cut: list[dict[str, Series]] = [{} for _ in runs]
    names = [name for name in runs[0] if all(name in metrics for metrics in runs)] if runs else []
    for name in names:
        series = [metrics[name] for metrics in runs]
        steps = functools.reduce(np.intersect1d, (of_run.steps for of_run in series), series[0].steps)
        if len(steps) and len({of_run.values.shape[1] for of_run in series}) == 1:
            for metrics, of_run in zip(cut, series, strict=True):
                last = np.searchsorted(of_run.steps, steps, side="right") - 1
                metrics[name] = Series(steps, of_run.values[last])
    return tuple(cut)


def _measured(group: Group, metrics: Mapping[Path, Metrics]) -> Measured:
    logged = {run.folder: _shown(metrics[run.folder]) for run in group.all_runs}
    tested = tuple(run for run in group.runs if _TEST in logged[run.folder])
    averaged = tested or group.runs
    return Measured(group, logged, averaged, at_common_steps([logged[run.folder] for run in averaged]))


def _shown(metrics: Metrics) -> Metrics:
    """The metrics of a run that are in the table or in a picture."""
    return {
        name: possible(name, series)
        for name, series in metrics.items()
        if name.startswith(("loss.", "accuracy.")) or name.endswith((".running_mean", ".running_var"))
    }


def _count(runs: int) -> str:
    return f"{runs} run{'s' if runs > 1 else ''}"
