"""What every experiment uses: its parts, the rules of a verdict, the look of a figure, and trainings on MNIST.

An experiment measures the same numbers with several seeds. `Trial` is one of these measurements. A verdict is made of
criteria: a mean over the seeds, and bounds that the claim sets for it. A criterion holds if the whole 95 % interval of
the mean (Student's t) is within the bounds, does not hold if all of it is outside, and is undecided otherwise.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import nn

from labml_bn import settings
from labml_bn.data import mnist
from labml_bn.data.mnist import ImageSet
from labml_bn.records.comparison.curves import style
from labml_bn.records.comparison.estimates import Estimate, estimate, mean_curve
from labml_bn.records.record import COMPLETED, DIVERGED, Record, read_run
from labml_bn.training.sweeps import plan, sweep
from labml_bn.training.tracking import DivergedError

HOLDS, DOES_NOT_HOLD, UNDECIDED = "holds", "does not hold", "undecided"

#: What a trial measures, by name: numbers, or lists of numbers that have the same shape for every seed. Tensors and
#: arrays count as lists. NaN is what could not be measured.
Measured = Mapping[str, Any]

#: The same of all trials, as arrays [seeds, ...] in the order of the seeds.
Found = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Trial:
    """One measurement: its seed, and of the runs that it trains the sweep and the folder.

    PyTorch's random numbers begin with the seed, so that most experiments need nothing of it. The sweep is called after
    the experiment and a checksum of its code and size.
    """

    seed: int
    sweep: str
    logs: Path = Path("logs")

    def train(self, *words: str, model: Callable[[], nn.Module] | None = None) -> Record:
        """Train a run as `python -m labml_bn.train WORDS` does, with this seed, as part of the experiment's sweep.

        One that was trained already is not trained again, and one that was interrupted is resumed. `model` makes the
        network, if it is the experiment's own; one of the words is then `network=NAME`, by which its runs differ from
        others. Returns the run's record, with its `metrics()`. It may have diverged, which its status says.
        """
        chosen = settings.read([f"seed={self.seed}", f"logs_path={self.logs}", *words])
        part = self._part(chosen)
        if part.status not in {COMPLETED, DIVERGED}:
            with contextlib.suppress(DivergedError):
                sweep.train_one(chosen, self.sweep, {}, model)
            part = self._part(chosen)
        assert part.folder is not None
        return read_run(part.folder)

    def _part(self, chosen: dict[str, Any]) -> plan.Part:
        """What there is of the run with these settings."""
        runs = plan.by_identity(self.logs, self.sweep, plan.IGNORED)
        return plan.part_of(chosen, self.sweep, plan.trained(chosen, runs, plan.IGNORED))


def images(part: str, samples: int, *, held_out: int = 0, seed: int = 0) -> ImageSet:
    """The first images of MNIST's "train", "held_out" or "test" images, on the CPU (`mnist.load`)."""
    folder, cpu = Path("data"), torch.device("cpu")
    return mnist.load(
        "MNIST", folder, part, samples=samples, held_out=held_out, seed=seed, device=cpu, dtype=torch.float32
    )


@dataclass(frozen=True)
class Criterion:
    """A part of a verdict: what was measured, its mean over the seeds, its bounds in words, and whether it holds."""

    what: str
    found: Estimate
    bounds: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.what}: {as_text(self.found)}, claimed {self.bounds}"


def above(what: str, values: ArrayLike, bound: float) -> Criterion:
    """The criterion that the mean of the values, one for each seed, is greater than a bound."""
    found = _estimate(values)
    return Criterion(what, found, f"above {bound:g}", _outcome(values, found.low > bound, found.high <= bound))


def below(what: str, values: ArrayLike, bound: float) -> Criterion:
    """The criterion that the mean of the values, one for each seed, is less than a bound."""
    found = _estimate(values)
    return Criterion(what, found, f"below {bound:g}", _outcome(values, found.high < bound, found.low >= bound))


def within(what: str, values: ArrayLike, low: float, high: float) -> Criterion:
    """The criterion that the mean of the values, one for each seed, is from `low` to `high`."""
    found = _estimate(values)
    inside, outside = low <= found.low and found.high <= high, found.high < low or found.low > high
    return Criterion(what, found, f"{low:g} to {high:g}", _outcome(values, inside, outside))


def _estimate(values: ArrayLike) -> Estimate:
    flat = np.asarray(values, np.float64)
    if flat.ndim != 1:
        raise ValueError(f"a criterion is about one number for each seed, got an array of shape {flat.shape}")
    return estimate(list(flat))


def _outcome(values: ArrayLike, inside: bool, outside: bool) -> str:
    """Undecided if a value could not be measured: the mean of the others may be better than that of all."""
    if not np.isfinite(np.asarray(values, np.float64)).all():
        return UNDECIDED
    return HOLDS if inside else DOES_NOT_HOLD if outside else UNDECIDED


def verdict(criteria: Sequence[Criterion]) -> str:
    """HOLDS if all criteria do, DOES_NOT_HOLD if one does not, else UNDECIDED."""
    outcomes = {criterion.outcome for criterion in criteria}
    return HOLDS if outcomes == {HOLDS} else DOES_NOT_HOLD if DOES_NOT_HOLD in outcomes else UNDECIDED


def as_text(found: Estimate) -> str:
    """A mean with half the width of its interval, rounded to two digits of the latter: `0.9921 ± 0.0010 (n = 8)`."""
    half = found.half_width
    if not math.isfinite(half) or half == 0 or found.mean == 0:
        interval = "no interval, " if found.n == 1 else "± 0, " if half == 0 else ""
        return f"{found.mean:.4g} ({interval}n = {found.n})"
    digits = math.floor(math.log10(abs(found.mean))) - math.floor(math.log10(half)) + 2
    return f"{found.mean:.{max(1, digits)}g} ± {half:.2g} (n = {found.n})"


@dataclass(frozen=True)
class Experiment:
    """A claim as an experiment. Its file's docstring describes it (`python -m experiments NAME --help`).

    Arguments:
        measure: measures one trial; its other arguments are the size, and what a test changes to refute the claim
        judge: the criteria, of what was found
        draw: the figure, of what was found; the claim and the criteria are written on it afterwards
        seeds: how many, from 1
        size: the arguments of `measure`
        quick: those that are other for `--quick`, which takes seconds
        full: those that are other for `--full`, for what takes longer than twenty minutes; None if there is no such
    """

    measure: Callable[..., Measured]
    judge: Callable[[Found], Sequence[Criterion]]
    draw: Callable[[Found], Figure]
    seeds: int = 8
    size: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    full: Mapping[str, Any] | None = None


def panels(*titles: str, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure with panels, each with its title, in rows of so many columns."""
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    figure = Figure(figsize=(max(7.0, 5 * columns), 4 * rows + 0.5), dpi=100, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())[: len(titles)]
    for each, title in zip(axes, titles, strict=True):
        each.set_title(title, fontsize="medium")
        each.grid(alpha=0.3)
    return figure, axes


def curve(axes: Axes, x: ArrayLike, values: ArrayLike, label: str, number: int) -> None:
    """Draw the mean over the seeds of values [seeds, points] at `x` [points], its interval as a band.

    `number` decides the colour, the line and the marker.
    """
    mean, low, high = mean_curve(np.asarray(values, np.float64))
    axes.plot(x, mean, label=label, markersize=4, **style(number))
    axes.fill_between(np.asarray(x), low, high, color=style(number)["color"], alpha=0.2, linewidth=0)


def bars(axes: Axes, values: Mapping[str, ArrayLike]) -> None:
    """Draw the mean of each group of values, [seeds], as a point with its interval, and the values beside it."""
    for number, (name, group) in enumerate(values.items()):
        found, look = _estimate(group), style(number) | {"linestyle": "none"}
        half = 0.0 if math.isnan(found.half_width) else found.half_width
        axes.errorbar([number], [found.mean], [half], capsize=4, label=name, **look)
        dots = np.asarray(group)
        axes.plot([number + 0.15] * len(dots), dots, ".", color=look["color"], alpha=0.5)
    axes.set_xticks(range(len(values)), list(values))
    axes.set_xlim(-0.5, len(values) - 0.5)


def stacked(trials: Iterable[Measured]) -> Found:
    """What several trials have measured, as arrays [seeds, ...]. Raises ValueError if they differ in shape."""
    listed = list(trials)
    return {name: np.array([trial[name] for trial in listed], np.float64) for name in listed[0]}
