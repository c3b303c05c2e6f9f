"""A list of runs for people: the columns that matter, as texts and as an HTML table."""

import html
import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from labml_bn.cli.text import duration, loss, printable
from labml_bn.records.columns import COLUMNS, Column, find_column
from labml_bn.records.record import Record, names_of, short_uuids
from labml_bn.records.results import BEST
from labml_bn.settings import KEYS, as_typed, short

#: Settings that do not tell runs apart: the number of epochs is beside those done, folders are not results.
_NOT_SHOWN = {"epochs", "data_path", "logs_path"}

#: The longest text that is shown, in characters: a note may have many pages.
_LONGEST = 500

#: These are columns if any run has one.
_OPTIONAL = ("sweep", "tags", "note")


def rows(runs: Sequence[Record], *, differing: bool = False) -> list[list[str]]:
    """A heading and a row a run. `differing` also gives the settings that differ between the runs."""
    uuids, names = short_uuids(runs), names_of(runs)
    final, done = find_column("accuracy.test", runs), COLUMNS["epochs_done"]
    shown: dict[str, Callable[[Record], str]] = {
        "run": lambda run: uuids[run.folder],
        "status": lambda run: run.status,
        "epochs": lambda run: f"{done.value(run)}/{run.settings['epochs']}",
        "accuracy": lambda run: as_text(final, run),
        "time": lambda run: duration(run.elapsed),
        "started": lambda run: as_text(COLUMNS["started"], run),
    }
    for name in _OPTIONAL:
        if any(COLUMNS[name].value(run) for run in runs):
            shown[name] = _text_of(COLUMNS[name])
    shown["name"] = lambda run: names[run.folder]
    if differing:
        for key in KEYS:
            if key not in _NOT_SHOWN and len({as_typed(run.settings[key]) for run in runs}) > 1:
                shown[short(key)] = _text_of(COLUMNS[key])
    return [list(shown), *([text(run) for text in shown.values()] for run in runs)]


def chosen(runs: Sequence[Record], names: Sequence[str]) -> list[list[str]]:
    """A heading and a row a run, of these columns. Raises UsageError for an unknown one."""
    found = [find_column(name, runs) for name in names]
    return [[column.name for column in found], *([as_text(column, run) for column in found] for run in runs)]


def _text_of(column: Column) -> Callable[[Record], str]:
    return lambda run: as_text(column, run)


def as_text(column: Column, run: Record) -> str:
    """A run's value in a column in a few characters, on one line, in a form that a terminal can show."""
    value: Any = column.value(run)
    if column.name == "time":
        return duration(value)
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M")
    if isinstance(value, float) and math.isnan(value):
        return "-"
    kind = column.name.removeprefix(BEST).partition(".")[0]
    if kind == "accuracy":
        return f"{value:.2%}"
    if kind == "loss":
        return loss(value)
    text = printable(", ".join(value) if column.type is set else as_typed(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def html_table(rows: Sequence[Sequence[str]], below: Sequence[str] = ()) -> str:
    """Rows, the first one the heading, and lines of text below them, as HTML. All texts are escaped."""
    heading, *body = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    lines = "".join(f"<tr>{row}</tr>" for row in body)
    notes = "".join(f"<p>{html.escape(line)}</p>" for line in below)
    return f"<table><thead><tr>{heading.replace('td>', 'th>')}</tr></thead><tbody>{lines}</tbody></table>{notes}"
