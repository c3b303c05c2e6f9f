"""List the runs in ./logs, the newest first, or write about some of them.

    python -m labml_bn.runs
    python -m labml_bn.runs --where "norm=none and accuracy.test>0.99" --sort accuracy.test --descending --limit 5
    python -m labml_bn.runs --columns run,lr,seed,best.accuracy.test
    python -m labml_bn.runs --csv > runs.csv
    python -m labml_bn.runs --tag latest good --tag latest baseline --note latest "the one in the report"
    python -m labml_bn.runs --tag norm=none baseline

The status of a run is running, completed, interrupted (by a signal), diverged (its loss was not finite), crashed (by an
error) or killed (without a record of its end). The accuracy is on all test images, after the last completed epoch.

Columns are run, name, status, sweep, tags, note, started, time, epochs_done, every setting, and every loss and
accuracy: accuracy.test is the last one, best.accuracy.test the best. In --where, comparisons (= != < <= > >=) are
joined by and, or, not and parentheses; tags=good chooses the runs that have the tag.

Names, tags and notes are kept in the folders of the runs, and the dashboard shows them too. RUN can also be a sweep,
`latest:N` or an expression as in --where: then all these runs are changed. An empty name or note removes it.
"""

from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import UsageError, UserError
from labml_bn.cli.text import printable


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.runs", __doc__)
    parser.add_logs_argument()
    parser.add_argument("--where", metavar="EXPR", help="only the runs for which the expression holds")
    parser.add_argument("--sort", metavar="COLUMN", help="sort by this column, the smallest first")
    parser.add_argument("--descending", action="store_true", help="sort the largest first")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N runs")
    parser.add_argument("--columns", metavar="A,B,...", help="these columns instead of the usual ones")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--csv", action="store_true", help="print CSV with full values: all columns, or those chosen")
    forms.add_argument("--json", action="store_true", help="print JSON with full values")
    for name, value, meaning in (
        ("name", "NAME", "name a run"),
        ("note", "TEXT", "write a note about a run"),
        ("tag", "TAG", "add a tag to a run; can be repeated"),
        ("untag", "TAG", "remove a tag"),
    ):
        parser.add_argument(f"--{name}", nargs=2, action="append", default=[], metavar=("RUN", value), help=meaning)
    arguments = parser.parse_args()
    changes = [(what, *change) for what in ("name", "note", "tag", "untag") for change in getattr(arguments, what)]
    listed = ("where", "sort", "descending", "limit", "columns", "csv", "json")
    if changes and any(getattr(arguments, option) not in {None, False} for option in listed):
        raise UsageError(f"--{changes[0][0]} changes runs and lists no others: write an expression in the place of RUN")
    if arguments.limit is not None and arguments.limit < 1:
        raise UsageError(f"--limit {arguments.limit}: write a number from 1 on")
    if arguments.descending and arguments.sort is None:
        raise UsageError("--descending needs --sort COLUMN")

    from labml_bn.cli.text import table, terminal_width
    from labml_bn.records import formats, listing
    from labml_bn.records.finding import write_notes
    from labml_bn.records.folder import list_runs
    from labml_bn.records.record import read_runs
    from labml_bn.records.table import RunTable

    if changes:
        changed = read_runs(write_notes(changes, arguments.logs))
        print(table(listing.rows(changed), terminal_width()))
        return
    folders = list_runs(arguments.logs)
    runs = RunTable(read_runs(folders))
    if folders and not runs:
        raise UserError(f"no run in {arguments.logs} can be read")
    nothing = f"there are no runs in {arguments.logs} (python -m labml_bn.train makes one)"
    if runs and arguments.where is not None:
        nothing = f"no run in {arguments.logs} matches {printable(arguments.where)}"
        runs = runs.where(arguments.where)
    if runs and arguments.sort is not None:
        runs = runs.sort(arguments.sort, descending=arguments.descending)
    runs = runs[: arguments.limit]
    columns = None if arguments.columns is None else arguments.columns.split(",")
    if arguments.csv or arguments.json:
        form = formats.as_csv if arguments.csv else formats.as_json
        print(form(runs.to_dict(columns)), end="")
    elif not runs:
        print(nothing)
    else:
        print(table(listing.rows(runs) if columns is None else listing.chosen(runs, columns), terminal_width()))


if __name__ == "__main__":
    run_command(main)
