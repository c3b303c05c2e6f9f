"""The diagnosis of a network, and how it is printed: a table of the layers, and the verdict in words."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from labml_bn.norm.diagnosis.causes import LOST_CHANNELS, Finding
from labml_bn.norm.diagnosis.layers import LayerDiagnosis
from labml_bn.norm.diagnosis.moments import Shift

#: Columns of the printed text.
WIDTH = 80

_LEGEND = """\
0.10 ×1.20: means 0.10 standard deviations apart, variances by a factor of 1.2
alone: what changes in evaluation if only this layer has the population's
   statistics; dead: channels with a constant input or a variance below eps"""


@dataclass(frozen=True)
class Outcome:
    """What the network gives with which statistics, over the training data unless it says otherwise.

    With `is_loss`, losses; else how much the output differs from `running`: the root mean square of the difference over
    that of the output.

    batch: with the statistics of each batch, as in training
    running: with the running statistics, as in evaluation
    population: with the population's in all layers, in evaluation
    evaluation: over the evaluation data, with the running statistics; None without these data or a loss
    """

    is_loss: bool
    batch: float
    running: float
    population: float
    evaluation: float | None


@dataclass(frozen=True)
class Diagnosis:
    """What was measured of each layer, what the network gives, and the causes that were found.

    `str()` is a table and the verdict in words, for a terminal of 80 columns.
    """

    layers: tuple[LayerDiagnosis, ...]
    outcome: Outcome
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        parts = [_table(self.layers, self.outcome.is_loss), "", _LEGEND, "", _outcome(self.outcome), ""]
        if self.healthy:
            parts.append(_wrapped("Healthy: nothing in the normalization makes evaluation worse than training."))
        elif all(finding.cause in LOST_CHANNELS for finding in self.findings):
            parts.append(_wrapped("Evaluation is as training is, but channels are lost:"))
        for number, finding in enumerate(self.findings, start=1):
            parts.append(_wrapped(f"{number}. {_names(finding.layers)}: {finding.explanation}."))
            parts.append(_wrapped(f"   Remedy: {finding.remedy}."))
        return "\n".join(parts)


def _table(layers: Sequence[LayerDiagnosis], is_loss: bool) -> str:
    """A row for each layer. A name that is too long for the first column has a line of its own."""
    evaluated = any(layer.from_training is not None for layer in layers)
    rows = [
        ["", "", "running from", "running from", "evaluation", "dead", "alone:"],
        ["layer", "updates", "population", "a batch", "from train", "of all", "loss" if is_loss else "output"],
    ]
    for layer in layers:
        cells = [
            layer.name or "(network)",
            "frozen" if layer.frozen else "-" if layer.updates is None else str(layer.updates),
            _shift(layer.from_population),
            _shift(layer.from_batch),
            _shift(layer.from_training),
            f"{layer.dead + layer.vanishing}/{layer.channels}",
            "-" if math.isnan(layer.effect) else f"{layer.effect:+.3g}" if is_loss else f"{layer.effect:.1%}",
        ]
        rows.append(cells)
    if not evaluated:
        rows = [row[:4] + row[5:] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1))
    lines = []
    for name, *cells in rows:
        if len(name) > widths[0]:
            lines.append(name if len(name) <= WIDTH else f"…{name[1 - WIDTH :]}")
            name = ""
        lines.append("  ".join([name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))]))
    return "\n".join(lines)


def _shift(shift: Shift | None) -> str:
    """`0.12 ×1.30`: standard deviations between the means, and the factor between the variances."""
    return "-" if shift is None or math.isnan(shift.mean) else f"{_short(shift.mean)} ×{_short(shift.var)}"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0e}"


def _outcome(outcome: Outcome) -> str:
    if outcome.is_loss:
        text = (
            f"Loss on the training data: {outcome.batch:.4g} as in training (batch statistics), {outcome.running:.4g} "
            f"in evaluation (running statistics), {outcome.population:.4g} with the population's statistics."
        )
        if outcome.evaluation is not None:
            text += f" Loss on the evaluation data: {outcome.evaluation:.4g} (running statistics)."
        return _wrapped(text)
    return _wrapped(
        f"The output in evaluation (running statistics) changes by {outcome.population:.1%} with the population's "
        f"statistics, by {outcome.batch:.1%} with each batch's, as in training."
    )


def _names(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    if list(names) == [""]:
        return "the network"
    shown = f"layer{'s' if len(names) > 1 else ''} {', '.join(names[:3])}"
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="   ", break_on_hyphens=False)
