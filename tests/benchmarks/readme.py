"""The README's table of speed: some of the results, between two markers. It is written with RESULTS.md."""

import re
from collections.abc import Mapping
from pathlib import Path

from labml_bn.cli.files import replacing
from tests.benchmarks.measuring import ROOT, Row
from tests.benchmarks.report import Result, as_ratio, as_time

README = ROOT / "README.md"
BEGIN, END = "<!-- made by python -m tests.benchmarks -->", "<!-- end -->"

#: The rows: the part, how the row's `what` and `against` begin there, and the words in the README.
ROWS = [
    ("layer", "geometric mean of 18, forward", "PyTorch", "the layer, forward and backward (mean of 18 cases)"),
    ("layer", "largest: [64, 500] contiguous, forward", "PyTorch", "its slowest case: [64, 500]"),
    ("layer", "geometric mean of 18, evaluation", "PyTorch", "the layer, evaluation (mean of 18 cases)"),
    ("step", "a step, batch 64, norm=batch_norm", "norm=torch", "a training step, batch size 64"),
    ("options", "a step, batch 64, precision=bfloat16", "the defaults", "the same, `precision=bfloat16`"),
    ("epoch", "an epoch, loop", "labml's annotated", "an epoch, validated, logged and saved"),
    ("epoch", "an epoch, loop", "plain PyTorch with DataLoader", "an epoch"),
    ("epoch", "an epoch, loop", "plain PyTorch, images in memory", "an epoch"),
    ("fast", "an epoch of fast.yaml, loop", "the published recipe", "`train fast`, 99 % in one epoch"),
    ("sweep", "a sweep of 8 runs, --jobs 4", "--jobs 1", "a sweep of 8 runs, `--jobs 4`"),
    ("tracker", "the tracker", "an epoch", "the tracker's share"),
    ("startup", "a run until its first step", "import torch", "a run until its first step"),
]


def table(results: Mapping[str, Result]) -> str:
    """The table in Markdown. Results that are missing have no row."""
    lines = ["| measured | relative to | time | theirs | ratio |", "| --- | --- | --- | --- | --- |"]
    for part, what, against, words in ROWS:
        row = _find(results[part].rows, what, against) if part in results else None
        if row is not None:
            times = f"{as_time(row.ours)} | {as_time(row.theirs)}"
            accuracies = _accuracies(results[part].notes, row)
            lines.append(f"| {words}{accuracies} | {row.against} | {times} | {as_ratio(row.ratio)} |")
    return "\n".join(lines)


def _find(rows: list[Row], what: str, against: str) -> Row | None:
    """The row that is meant: the one with the shortest names of those that begin so."""
    found = [row for row in rows if row.what.startswith(what) and row.against.startswith(against)]
    return min(found, key=lambda row: len(row.what + row.against), default=None)


def _accuracies(notes: list[str], row: Row) -> str:
    """The accuracies after an epoch with the setting of a row and with the defaults, if they were measured."""
    matches = [re.match(r"(.+): test accuracy .* (\S+%) \(", note) for note in notes]
    found = {match[1]: match[2] for match in matches if match}
    ours, theirs = found.get(row.what.rpartition(", ")[2]), found.get(row.against)
    return f" (accuracy {ours}, theirs {theirs})" if ours and theirs else ""


def write(results: Mapping[str, Result], readme: Path = README) -> None:
    """Replace the table between the markers."""
    text = readme.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    with replacing(readme) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}", encoding="utf-8")
