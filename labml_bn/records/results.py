"""What a run has reached: of each metric the final and the best value.

The best value of a test metric is that at the best epoch on the held-out images, if there are any. Otherwise it is the
best of the test metric itself, which is a little too good: the images that choose should not be those that report.
"""

from collections.abc import Mapping

import numpy as np

from labml_bn.records.record import Series

#: Losses and other metrics that exceed it are not shown.
LARGEST = 1e100

#: The beginning of a best value's name.
BEST = "best."


def possible(name: str, series: Series) -> Series:
    """A metric whose impossible values are NaN, which is not drawn: an accuracy of 2, a loss of 1e300."""
    low, high = (0.0, 1.0) if name.startswith("accuracy.") else (-LARGEST, LARGEST)
    is_possible = (series.values >= low) & (series.values <= high)
    return Series(series.steps, np.where(is_possible, series.values, np.nan))


def results(metrics: Mapping[str, Series]) -> dict[str, float]:
    """Of each loss and accuracy the final value by its name, and the best one by `best.` and its name.

    NaN for a value that is not possible, and for the best of none.
    """
    found = {}
    for name, series in metrics.items():
        if name.startswith(("loss.", "accuracy.")) and series.values.shape[1] == 1:
            values = possible(name, series).values[:, 0]
            found[name] = float(values[-1])
            best = best_index(metrics, name)
            found[BEST + name] = float("nan") if best is None else float(values[best])
    return found


def best_index(metrics: Mapping[str, Series], name: str) -> int | None:
    """The index of the best value of a loss or accuracy, the first if there are several; None if there is none."""
    kind, _, images = name.partition(".")
    values = possible(name, metrics[name]).values[:, 0]
    held_out = f"{kind}.held_out"
    if images == "test" and held_out in metrics:
        values = possible(held_out, metrics[held_out]).values[: len(values), 0]
    if np.isnan(values).all():
        return None
    return int(np.nanargmin(values) if kind == "loss" else np.nanargmax(values))
