"""A table of runs, for notebooks and scripts: `load_runs`. Each row is a `Record`, whose `metrics()` has its series.

runs = labml_bn.load_runs().where("norm=none and accuracy.test>0.99").sort("accuracy.test")
runs.to_pandas()
runs[-1].metrics()["loss.train"].values
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from labml_bn.cli.errors import UserError
from labml_bn.cli.text import table, terminal_width
from labml_bn.records import columns, listing, query
from labml_bn.records.folder import list_runs
from labml_bn.records.record import Record, read_runs

if TYPE_CHECKING:
    from pandas import DataFrame

#: So many runs are shown; the others are counted.
_SHOWN = 100


def load_runs(logs: str | os.PathLike[str] = "logs") -> "RunTable":
    """The runs in a folder, the newest first. One that cannot be read is left out, with a line on standard error.

    Raises UserError if there is no such folder.
    """
    folder = Path(logs)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    return RunTable(read_runs(list_runs(folder)))


class RunTable(Sequence[Record]):
    """Runs, as a sequence of `Record`s with named columns.

    The columns are `run`, `name`, `status`, `sweep`, `tags`, `note`, `started`, `time` (seconds of training),
    `epochs_done`, every setting by its key, and every loss and accuracy: its final value by its name
    (`accuracy.test`), its best one by `best.` and its name. Wherever a column is named, a setting can be in its short
    form (`lr`). A log is read when a column first needs it.
    """

    def __init__(self, runs: Iterable[Record]) -> None:
        self._runs = list(runs)

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "RunTable": ...
    def __getitem__(self, index: int | slice) -> "Record | RunTable":
        """A run by its place, or a table of some of them."""
        return RunTable(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    @property
    def columns(self) -> list[str]:
        """The names of all columns. Reads the logs of all runs."""
        return [column.name for column in columns.all_columns(self._runs)]

    def column(self, name: str) -> list[Any]:
        """The values of all runs in a column. A text that a run lacks is empty, a number NaN.

        `started` has datetimes in UTC, `tags` lists of texts. Raises UsageError for an unknown column.
        """
        column = columns.find_column(name, self._runs)
        return [column.value(run) for run in self._runs]

    def to_dict(self, names: Iterable[str] | None = None) -> dict[str, list[Any]]:
        """These columns, or all of them, by their full names. Raises UsageError for an unknown one."""
        chosen = columns.all_columns(self._runs)
        if names is not None:
            chosen = [columns.find_column(name, self._runs) for name in names]
        return {column.name: [column.value(run) for run in self._runs] for column in chosen}

    def to_pandas(self) -> "DataFrame":
        """All columns as a DataFrame, indexed by `run`. Raises UserError if pandas is not installed."""
        try:
            import pandas as pd
        except ImportError as error:
            raise UserError("pandas is not installed: pip install 'labml-bn[pandas]'") from error
        return pd.DataFrame(self.to_dict()).set_index("run")

    def where(self, expression: str) -> "RunTable":
        """The runs that an expression chooses, such as `norm=none and accuracy.test>0.99` (`query.py`).

        Raises UsageError if it is malformed or has an unknown column.
        """
        test = query.parse(expression, lambda name: columns.find_column(name, self._runs))
        return RunTable(run for run in self._runs if test(run))

    def sort(self, name: str, *, descending: bool = False) -> "RunTable":
        """The runs sorted by a column; those that have no value there are last. Raises UsageError as `column` does."""
        column = columns.find_column(name, self._runs)
        values = [(column.value(run), run) for run in self._runs]
        present = sorted((pair for pair in values if not columns.is_missing(pair[0])), key=_first, reverse=descending)
        return RunTable(run for _, run in [*present, *(pair for pair in values if columns.is_missing(pair[0]))])

    def __repr__(self) -> str:
        shown = table(listing.rows(self._runs[:_SHOWN]), terminal_width()) if self._runs else "no runs"
        return "\n".join([shown, *self._rest()])

    def _repr_html_(self) -> str:
        """The table as a notebook shows it, with the settings that differ between the runs."""
        rows = listing.rows(self._runs[:_SHOWN], differing=True) if self._runs else [["no runs"]]
        return listing.html_table(rows, self._rest())

    def _rest(self) -> list[str]:
        more = len(self._runs) - _SHOWN
        return [f"... and {more} more runs"] if more > 0 else []


def _first(pair: tuple[Any, Record]) -> Any:
    return pair[0]
