"""Compare runs: a table of means with intervals, a figure of their curves, and a page to explore them.

    python -m labml_bn.compare latest:2                     the two newest runs, in compare.png and compare.html
    python -m labml_bn.compare norm-seed                    a sweep; the means over its seeds
    python -m labml_bn.compare 42fe98 "norm=none" --runs    other runs, each for itself
    python -m labml_bn.compare latest:20 --by lr --figure rates.svg
    python -m labml_bn.compare norm-seed --live             the page in the browser, updated while the runs are running
    python -m labml_bn.compare latest --distributions distributions.png

Runs that differ only in their seed are a group. The table shows how many they are (n), and the means of the accuracy
and loss on all test images after the last and the best epoch, and of the time, each with its 95 % interval (Student's
t). Below it, each group is compared with the first by the difference of their means, paired by seed if most seeds are
in both groups. Runs that diverged and epochs that not all runs of a group have are in no mean; a line says so. If no
two runs are in the same group, or with --runs, the table and the figure show each run.

The figure shows loss and accuracy over the training images seen, and for each batch normalization layer its running
mean and variance as a band over the channels: the 15th, 50th and 85th percentile. With --by it shows the final accuracy
over the values of a setting. The page is written beside the figure, with the ending .html, and needs no other file. Its
charts show values and can be zoomed, and its groups are those with the same value of any setting. With --live, it is
served on this machine until Ctrl-C, and no file is written.

With --distributions, another figure has the distributions of the first run over training: of each layer's statistics
and, if the run was trained with track=distributions, of its parameters and gradients.
"""

from argparse import Namespace
from pathlib import Path

from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import UsageError, UserError
from labml_bn.cli.files import check_writable


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.compare", __doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a folder, a uuid or the beginning of it, `latest`, `latest:N`, a sweep's name, or a pattern: norm=none",
    )
    parser.add_argument("--runs", action="store_true", dest="each_run", help="show each run instead of the means")
    parser.add_argument("--by", metavar="KEY", help="draw the final test accuracy over a setting: lr, norm")
    parser.add_argument(
        "--figure",
        type=Path,
        default=Path("compare.png"),
        metavar="FILE",
        help="the figure, ending in .png or .svg (default: compare.png)",
    )
    parser.add_argument(
        "--distributions",
        type=Path,
        metavar="FILE",
        help="also draw how each layer's statistics, parameters and gradients change in the first run",
    )
    parser.add_logs_argument()
    parser.add_argument("--live", action="store_true", help="serve the page, updated while runs are running")
    parser.add_argument("--port", type=int, default=5006, help="the port of the live page (default: 5006)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the live page in a browser")
    arguments = parser.parse_args()
    if arguments.live:
        _serve(arguments)
    else:
        _write(arguments)


def _write(arguments: Namespace) -> None:
    """Print the table, and write the figures and the page."""
    check_writable(arguments.figure, (".png", ".svg"))
    if arguments.distributions is not None:
        check_writable(arguments.distributions, (".png", ".svg"))

    from labml_bn.cli.text import paragraph, table, terminal_width
    from labml_bn.records import distributions, figures
    from labml_bn.records.comparison import by_setting, curves, page, rows
    from labml_bn.records.comparison.measured import read_groups
    from labml_bn.records.finding import find_runs
    from labml_bn.records.record import read_runs

    runs = read_runs(find_runs(arguments.runs, arguments.logs))
    if not runs:
        raise UserError("there are no runs to compare")
    key = by_setting.key_of(arguments.by, runs) if arguments.by else None
    metrics = {run.folder: run.metrics() for run in runs}
    groups = read_groups(runs, metrics)
    each_run = arguments.each_run or len(groups) == len(runs)
    if key:
        figure = by_setting.figure(groups, key)
    else:
        figure = curves.figure_of_runs(groups, runs) if each_run else curves.figure_of_groups(groups)
    spread = distributions.figure(runs[0], metrics[runs[0].folder]) if arguments.distributions is not None else None
    print(table(rows.run_rows(groups, runs) if each_run else rows.group_rows(groups), terminal_width()))
    for sentence in rows.sentences(groups):
        print(paragraph(sentence, terminal_width()))
    figures.save(figure, arguments.figure)
    print(f"figure: {arguments.figure}")
    written = arguments.figure.with_suffix(".html")
    page.save(runs, list(metrics.values()), written)
    print(f"page: {written}")
    if spread is not None:
        figures.save(spread, arguments.distributions)
        print(f"distributions of {runs[0].uuid[:8]}: {arguments.distributions}")


def _serve(arguments: Namespace) -> None:
    """Serve the page until a signal ends the process."""
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port {arguments.port}: a port is a number from 0 to 65535")
    try:
        from labml_bn.dashboard import live
    except ImportError as error:
        raise UserError(
            f"--live needs packages that are not installed ({error.name}): pip install 'labml-bn[dashboard]'"
        ) from error
    live.serve(arguments.runs, arguments.logs, arguments.port, opens_browser=not arguments.no_browser)


if __name__ == "__main__":
    run_command(main)
