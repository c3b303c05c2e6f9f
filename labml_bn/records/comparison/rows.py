"""The tables of `compare` as rows of text, and the sentences below them."""

from collections.abc import Sequence

import numpy as np

from labml_bn.cli.text import duration
from labml_bn.cli.text import loss as loss_text
from labml_bn.records.comparison.estimates import Difference, Estimate, difference
from labml_bn.records.comparison.groups import about_test_images, differing, is_tested_alike
from labml_bn.records.comparison.measured import Measured
from labml_bn.records.record import Record, short_uuids
from labml_bn.records.results import BEST, best_index, results
from labml_bn.settings import KEYS, as_typed, short

_ACCURACY, _LOSS = "accuracy.test", "loss.test"

#: So many groups are compared with the first one in sentences.
_MOST_DIFFERENCES = 4


def group_rows(groups: Sequence[Measured]) -> list[list[str]]:
    """A heading, and a row per group: n, and the means of final and best results and of the time with intervals.

    The best results are last: in a terminal of 80 columns they are on a line of their own.
    """
    rows = [["group", "n", "final accuracy", "final loss", "time", "best accuracy", "best loss"]]
    for group in groups:
        cells = [group.group.name, str(len(group.averaged))]
        for name in (_ACCURACY, _LOSS, "time", BEST + _ACCURACY, BEST + _LOSS):
            cells.append(_cell(group.estimate(name), name.removeprefix(BEST), len(group.averaged)))
        rows.append(cells)
    return rows


def run_rows(groups: Sequence[Measured], runs: Sequence[Record]) -> list[list[str]]:
    """A heading, and a row per run: status, results, and the settings that differ between the runs."""
    logged = {folder: metrics for group in groups for folder, metrics in group.logged.items()}
    shown_elsewhere = {"epochs", "data_path", "logs_path"}
    keys = [key for key in differing(runs, KEYS) if key not in shown_elsewhere]
    uuids = short_uuids(runs)
    rows = [["run", "status", "epochs", "final", "best", "at epoch", "loss", "time", *map(short, keys)]]
    for run in runs:
        metrics = logged[run.folder]
        found = results(metrics)
        best = best_index(metrics, _ACCURACY) if _ACCURACY in metrics else None
        rows.append(
            [
                uuids[run.folder],
                run.status,
                f"{len(metrics[_ACCURACY].steps) if _ACCURACY in metrics else 0}/{run.settings['epochs']}",
                _value(found.get(_ACCURACY, float("nan")), _ACCURACY),
                _value(found.get(BEST + _ACCURACY, float("nan")), _ACCURACY),
                "-" if best is None else str(best + 1),
                _value(found.get(_LOSS, float("nan")), _LOSS),
                duration(run.elapsed),
                *(as_typed(run.settings[key]) for key in keys),
            ]
        )
    return rows


def sentences(groups: Sequence[Measured]) -> list[str]:
    """What the table of groups leaves out and why; then how the groups differ, each compared with the first.

    Groups that are tested on other images than the first one are not compared with it.
    """
    lines = [f"{group.group.name}: {'; '.join(remarks)}" for group in groups if (remarks := group.remarks())]
    if len(groups) < 2:
        return lines
    lines += about_test_images([group.group.all_runs[0] for group in groups])
    first, *others = groups
    others = [other for other in others if is_tested_alike(first.group.settings, other.group.settings)]
    compared = others[:_MOST_DIFFERENCES]
    more = f" (here {len(compared)} of {len(others)})" if len(others) > len(compared) else ""
    which = "each group" if len(others) == len(groups) - 1 else "each group with the same test images"
    head = f"{which} compared with the first{more}; the intervals are not corrected for multiple comparisons:"
    found = []
    for other in compared:
        for name in (_ACCURACY, _LOSS) if len(groups) == 2 else (_ACCURACY,):
            less = difference(first.by_seed(name), other.by_seed(name))
            if less and (less.n != (1, 1) or len(groups) == 2):
                found.append(f"{first.group.name} - {other.group.name}: {_words(less, name, first, other)}")
    return [*lines, *([head] if found and len(groups) > 2 else []), *found]


def _words(found: Difference, name: str, first: Measured, other: Measured) -> str:
    factor, unit = (100, " points of final test accuracy") if name == _ACCURACY else (1, " of final test loss")
    digits = 2 if name == _ACCURACY else 4
    mean, low, high = (factor * value for value in (found.mean, found.low, found.high))
    while digits < 8 and any(abs(value) > 1e-12 and round(value, digits) == 0 for value in (mean, low, high)):
        digits += 1  # an end that is not zero is not shown as zero
    text = f"{_signed(mean, digits)}{unit}"
    if first.epochs != other.epochs:
        text += f" after {first.epochs} and {other.epochs} epochs"
    of_seeds = _seeds(found, first, other)
    if found.excludes_zero is None:
        return f"{text} ({of_seeds}): no interval{_why_none(found)}"
    verdict = "excludes" if found.excludes_zero else "includes"
    return f"{text} (95 % interval {low:.{digits}f} to {high:.{digits}f}, {of_seeds}): the interval {verdict} zero"


def _why_none(found: Difference) -> str:
    if np.isnan(found.low):
        return "" if found.n == (1, 1) else ", as a group has one run only"
    return ", as it is the same for every seed" if found.paired else ", as the runs of each group are equal"


def _seeds(found: Difference, first: Measured, other: Measured) -> str:
    if found.n == (1, 1):
        return "one run each"
    if not found.paired:
        return f"{found.n[0]} and {found.n[1]} seeds, not paired"
    sizes = {len(first.averaged), len(other.averaged)}
    common = "" if sizes == {found.n[0]} else " in common"
    return f"{found.n[0]} seeds{common}, paired"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"


def _cell(found: Estimate, name: str, runs: int) -> str:
    """A mean ± the half-width of its interval, and of how many runs if some have no such value."""
    if found.n == 0:
        return "-"
    text = _value(found.mean, name)
    if found.n > 1:
        half = found.half_width
        text += f" ± {100 * half:.2f}" if name == _ACCURACY else f" ± {_value(half, name)}"
    return text if found.n == runs else f"{text} (n = {found.n})"


def _value(value: float, name: str) -> str:
    if np.isnan(value):
        return "-"
    if name == "time":
        return duration(value)
    return f"{value:.2%}" if name == _ACCURACY else loss_text(value)
