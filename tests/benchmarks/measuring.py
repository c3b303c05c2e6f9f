"""Interleaved timing, and the rows that the parts of `python -m tests.benchmarks` measure."""

import gc
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: The root of the repository. Subprocesses are started in it, so that they find `tests` and `labml_bn`.
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Options:
    """The arguments that all parts share.

    `quick` measures too little for a result, only to see that everything works. `data` is the folder of the data sets,
    `repeats` how often each program is run.
    """

    quick: bool = False
    data: Path = Path("data")
    repeats: int = 3

    @classmethod
    def of(cls, arguments: Namespace) -> "Options":
        """The options on the command line."""
        return cls(arguments.quick, arguments.data.resolve(), 1 if arguments.quick else arguments.repeats)


@dataclass(frozen=True)
class Row:
    """A measured ratio: our time divided by the other's.

    `ours` and `theirs` are the medians in seconds, `quartiles` those of the ratio in each round. They are None for a
    row that summarizes others, and `ratio` is None if there is no measurement.
    """

    what: str
    against: str
    ratio: float | None = None
    ours: float | None = None
    theirs: float | None = None
    quartiles: tuple[float, float] | None = None


#: What a part gives: its rows, and remarks as text.
Measurements = Iterator[Row | str]


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, warm_up: int, least: int, most: int, seconds: float
) -> dict[str, list[float]]:
    """The times of each call in seconds, one per round; every round makes each call once (A B A B ...).

    The first `warm_up` rounds are left out. There are at least `least` rounds, then further ones until `seconds` have
    passed or there are `most`.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for _ in range(warm_up):
            for call in calls.values():
                call()
        end = time.perf_counter() + seconds
        for done in range(most):
            if done >= least and time.perf_counter() > end:
                break
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return times


def compare(what: str, against: str, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    """The row for times that were measured alternately: the ratio of the medians, and the quartiles of the ratios."""
    a, b = statistics.median(ours), statistics.median(theirs)
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Row(what, against, a / b, a, b, (low, high))


def geometric_mean(what: str, rows: Sequence[Row]) -> Row:
    """The row that summarizes `rows`, all against the same, by the geometric mean of their ratios."""
    ratios = [row.ratio for row in rows if row.ratio is not None]
    return Row(f"geometric mean of {len(ratios)}{what}", rows[0].against, statistics.geometric_mean(ratios))
