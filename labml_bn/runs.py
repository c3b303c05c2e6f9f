"""List the runs in ./logs, the newest first.

    python -m labml_bn.runs
    python -m labml_bn.runs --logs elsewhere

The status of a run is running, completed, interrupted (by a signal), crashed (by an error) or killed (without a record
of its end). The accuracy is on all test images, after the last completed epoch.
"""

from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import UserError


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.runs", __doc__)
    parser.add_logs_argument()
    arguments = parser.parse_args()

    from datetime import datetime

    from labml_bn.cli.text import duration, table, terminal_width
    from labml_bn.records.folder import list_runs
    from labml_bn.records.record import names_of, read_runs, short_uuids

    folders = list_runs(arguments.logs)
    runs = read_runs(folders)
    if not runs:
        if folders:
            raise UserError(f"no run in {arguments.logs} can be read")
        print(f"there are no runs in {arguments.logs} (python -m labml_bn.train makes one)")
        return
    short = short_uuids(runs)
    names = names_of(runs)
    rows = [["run", "status", "epochs", "accuracy", "time", "started", "name"]]
    for run in runs:
        tests = run.metrics("accuracy.test").get("accuracy.test")
        epochs = len(tests.steps) if tests else 0
        accuracy = f"{tests.values[-1, 0]:.2%}" if tests and 0 <= tests.values[-1, 0] <= 1 else "-"
        started = datetime.fromtimestamp(run.started).strftime("%Y-%m-%d %H:%M")
        done = f"{epochs}/{run.settings['epochs']}"
        rows.append([short[run.folder], run.status, done, accuracy, duration(run.elapsed), started, names[run.folder]])
    print(table(rows, terminal_width()))


if __name__ == "__main__":
    run_command(main)
