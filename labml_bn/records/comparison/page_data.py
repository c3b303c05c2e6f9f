"""The data of the comparison page: settings, results and curves of runs, as values for JSON.

Losses and accuracies are float64, as logged. A metric with many points, such as the training loss, is averaged over a
number of consecutive points that is the same for all runs, so that runs with the same settings have the same steps.
Metrics with several values per step, such as running statistics, are float32 in base64: at each step the percentiles
over channels, and at fewer steps the value of each channel. The page reports how much was left out.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labml_bn.cli.text import printable
from labml_bn.records.comparison.estimates import t_quantile
from labml_bn.records.comparison.groups import TEST_IMAGES, WITHIN
from labml_bn.records.comparison.measured import read_groups
from labml_bn.records.comparison.rows import sentences
from labml_bn.records.record import DIVERGED, PERCENTILES, RUNNING, Record, Series, short_uuids
from labml_bn.records.results import LARGEST, possible, results
from labml_bn.settings import KEYS, PATHS, as_typed, name_of, short, training_images

#: The setting in which the runs of a group differ.
SEED = "seed.seed"

#: So many points of a metric are drawn. Those that are logged once an epoch have fewer, and are never averaged.
MOST_POINTS = 500
_ONCE_AN_EPOCH = (".test", ".held_out")

#: Bytes of percentiles and of single channels in a page. With the rest, it stays below 16 MB.
PERCENTILES_LIMIT, CHANNELS_LIMIT = 2_500_000, 6_000_000

#: The longest text of a user that is shown.
_LONGEST = 1000


def make_data(runs: Sequence[Record], metrics: Sequence[Mapping[str, Series]]) -> dict[str, Any]:
    """The data for a page of these runs and their metrics."""
    by_folder = {run.folder: of_run for run, of_run in zip(runs, metrics, strict=True)}
    steps = _Steps()
    averaged = _averaged(metrics)
    identifiers = short_uuids(runs)
    sizes = [_sizes(of_run) for of_run in metrics]
    percentile_share = PERCENTILES_LIMIT // max(1, len(runs))
    channel_share = CHANNELS_LIMIT // max(1, len(runs))
    described = []
    for run, of_run, (percentile_size, channel_size) in zip(runs, metrics, sizes, strict=True):
        scalars, distributions = {}, {}
        for name, series in of_run.items():
            if series.values.shape[1] == 1:
                scalars[name] = _scalar(average(possible(name, series), averaged.get(name, 1)), steps)
            else:
                shown = percentile_share // max(1, percentile_size), channel_share // max(1, channel_size)
                distributions[name] = _distribution(series, *shown, steps)
        described.append(
            {
                "id": identifiers[run.folder],
                "uuid": run.uuid,
                "name": _text(run.given_name),
                "groupName": _text(name_of({key: run.settings[key] for key in KEYS if key not in WITHIN})),
                "tags": [_text(tag) for tag in run.tags[:20]],
                "sweep": run.sweep,
                "note": _text(str(run.notes.get("note", ""))),
                "status": run.status,
                "started": run.started,
                "time": run.elapsed,
                "epochs": run.settings["epochs"],
                "imagesPerEpoch": training_images(run.settings["train_samples"], run.settings["held_out"]),
                "settings": {key: _text(as_typed(run.settings[key])) for key in KEYS if key not in PATHS},
                "results": {name: _number(value) for name, value in results(of_run).items()},
                "metrics": scalars,
                "distributions": distributions,
            }
        )
    return {
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "isRunning": any(run.status == RUNNING for run in runs),
        "diverged": DIVERGED,
        "seed": SEED,
        "testImages": TEST_IMAGES,
        "keys": [
            {
                "key": key,
                "short": short(key),
                "meaning": KEYS[key].meaning,
                "isCompared": key == SEED or key not in WITHIN,
            }
            for key in KEYS
            if key not in PATHS
        ],
        "percentiles": PERCENTILES,
        "t": [t_quantile(freedom) for freedom in range(1, max(2, len(runs)))],
        "averaged": {name: count for name, count in averaged.items() if count > 1},
        "steps": steps.lists,
        "sentences": [_text(sentence) for sentence in sentences(read_groups(runs, by_folder))],
        "runs": described,
    }


def average(series: Series, count: int) -> Series:
    """A metric averaged over each `count` consecutive points, at their mean step; the last mean can be of fewer."""
    if count <= 1:
        return series
    starts = np.arange(0, len(series.steps), count)
    counts = np.diff(starts, append=len(series.steps))
    steps = np.add.reduceat(series.steps, starts) // counts
    return Series(steps, np.add.reduceat(series.values, starts) / counts[:, None])


class _Steps:
    """The lists of steps in a page, each of them once: most metrics of most runs have the same."""

    def __init__(self) -> None:
        self.lists: list[list[int]] = []
        self._numbers: dict[bytes, int] = {}

    def number(self, steps: NDArray[np.int64]) -> int:
        """The number of a list of steps, which is added if it is new."""
        number = self._numbers.setdefault(steps.tobytes(), len(self.lists))
        if number == len(self.lists):
            self.lists.append(steps.tolist())
        return number


def _averaged(metrics: Sequence[Mapping[str, Series]]) -> dict[str, int]:
    """For each metric how many points one is the mean of."""
    longest: dict[str, int] = {}
    for of_run in metrics:
        for name, series in of_run.items():
            if series.values.shape[1] == 1 and not name.endswith(_ONCE_AN_EPOCH):
                longest[name] = max(longest.get(name, 0), len(series.steps))
    return {name: -(-length // MOST_POINTS) for name, length in longest.items()}


def _scalar(series: Series, steps: _Steps) -> dict[str, Any]:
    return {"steps": steps.number(series.steps), "values": [_number(value) for value in series.values[:, 0].tolist()]}


def _sizes(of_run: Mapping[str, Series]) -> tuple[int, int]:
    """The bytes that one step of a run has: of percentiles, and of channels."""
    channels = [series.values.shape[1] for series in of_run.values() if series.values.shape[1] > 1]
    return 4 * (len(PERCENTILES) + 2) * len(channels), 4 * sum(channels)


def _distribution(series: Series, most_percentiles: int, most_channels: int, steps: _Steps) -> dict[str, Any]:
    """The percentiles [5, n] with minimum and maximum, and the channels [m, channels], at so many steps at most."""
    bounded = Series(series.steps, np.where(np.abs(series.values) <= LARGEST, series.values, np.nan))
    shown = _spread(len(series.steps), most_percentiles)
    part = Series(bounded.steps[shown], bounded.values[shown])
    bands = np.concatenate([part.values.min(axis=1)[None], part.percentiles(), part.values.max(axis=1)[None]])
    single = _spread(len(series.steps), most_channels)
    return {
        "steps": steps.number(part.steps),
        "bands": _float32(bands),
        "of": len(series.steps),
        "channels": series.values.shape[1],
        "channelSteps": steps.number(series.steps[single]),
        "values": _float32(bounded.values[single]),
    }


def _spread(length: int, most: int) -> NDArray[np.int64]:
    """At most so many of the indices from 0 to `length`, the first and the last among them; none if `most` is below 2.

    They are at the same distance, except the last.
    """
    if most < 2:
        return np.zeros(0, np.int64)
    if length <= most:
        return np.arange(length)
    distance = -(-(length - 1) // (most - 1))
    return np.append(np.arange(0, length - 1, distance), length - 1)


def _float32(values: NDArray[np.float64]) -> str:
    """Numbers as little-endian float32 in base64. What float32 cannot hold is infinite, and is not drawn."""
    with np.errstate(over="ignore"):
        return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _text(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"
