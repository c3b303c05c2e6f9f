"""The results of `python -m tests.benchmarks`: as a table, in RESULTS.md and in results.json."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labml_bn.cli.files import replacing
from labml_bn.cli.text import duration, table
from tests.benchmarks.machine import NOT_INSTALLED, TOO_BUSY
from tests.benchmarks.measuring import Row

HEADING = ["part", "measured", "relative to", "ours", "theirs", "ratio", "quartiles"]

INTRODUCTION = """# Benchmarks

Written by `python -m tests.benchmarks`; `python -m tests.benchmarks.PART` runs one part alone.

A ratio is our time divided by the other's: below 1, ours is faster. Both were measured alternately in one run. The
times are medians, and the quartiles are those of the ratio in each round. Everything runs on the CPU.
"""


@dataclass(frozen=True)
class Result:
    """What a part has measured, and when.

    `others` is the number of cores that other processes used meanwhile, None if not known.
    """

    date: str
    seconds: float
    others: float | None
    rows: list[Row]
    notes: list[str]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Result":
        """The result that `asdict` has turned into JSON."""
        rows = [Row(**{**row, "quartiles": row["quartiles"] and tuple(row["quartiles"])}) for row in values["rows"]]
        return cls(**{**values, "rows": rows})


def cells(results: Mapping[str, Result]) -> list[list[str]]:
    """The table of all results, as text; the first row is the heading."""
    rows = [HEADING]
    for part, result in results.items():
        for row in result.rows:
            low, high = (as_ratio(value) for value in row.quartiles or (None, None))
            times = [as_time(row.ours), as_time(row.theirs)]
            rows.append([part, row.what, row.against, *times, as_ratio(row.ratio), f"{low} to {high}" if low else ""])
    return rows


def remarks(results: Mapping[str, Result]) -> list[str]:
    """When each part was measured, on how busy a machine, and what it remarks."""
    lines = []
    for part, result in results.items():
        line = f"{part}: {result.date}, {duration(result.seconds)}"
        if result.others is not None:
            line += f"; other processes used {result.others:.2f} cores"
            line += " (too busy: measure again)" if result.others >= TOO_BUSY else ""
        lines += [line, *(f"{part}: {note}" for note in result.notes)]
    return lines


def as_text(results: Mapping[str, Result]) -> str:
    """The table and the remarks for a terminal."""
    return "\n".join([table(cells(results)), "", *remarks(results)])


def as_markdown(machine: Mapping[str, str], results: Mapping[str, Result]) -> str:
    """The content of RESULTS.md."""
    heading, *rows = cells(results)
    lines = [INTRODUCTION, *(f"- {name}: {value}" for name, value in machine.items()), ""]
    lines += ["| " + " | ".join(row) + " |" for row in (heading, ["---"] * len(heading), *rows)]
    lines += ["", *(f"- {remark}" for remark in remarks(results))]
    return "\n".join(lines) + "\n"


def save(folder: Path, machine: Mapping[str, str], results: Mapping[str, Result]) -> dict[str, Result]:
    """Write RESULTS.md and results.json. Returns the results in them.

    Parts that were not measured this time are kept if they were measured on the same machine with the same versions. A
    contender that is not installed now was not measured now: its version is kept with its results.
    """
    path = folder / "results.json"
    saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"machine": {}, "parts": {}}
    machine = {
        name: saved["machine"].get(name, value) if value == NOT_INSTALLED else value for name, value in machine.items()
    }
    kept = saved["parts"] if saved["machine"] == machine else {}
    merged = {**{part: Result.of(values) for part, values in kept.items()}, **results}
    parts = {part: asdict(result) for part, result in merged.items()}
    for name, content in (
        ("results.json", json.dumps({"machine": machine, "parts": parts}, indent=1) + "\n"),
        ("RESULTS.md", as_markdown(machine, merged)),
    ):
        with replacing(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return merged


def as_time(seconds: float | None) -> str:
    """Seconds with three digits; nothing for None."""
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def as_ratio(ratio: float | None) -> str:
    """A ratio with two decimals, or two digits if it is small; nothing for None."""
    if ratio is None:
        return ""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
