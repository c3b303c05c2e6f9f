"""Compare runs: a table, a figure of their curves, and a page with both.

    python -m labml_bn.compare latest:2                 the two newest runs, in compare.png and compare.html
    python -m labml_bn.compare 42fe98 9c01 logs/batch_norm/77a0*
    python -m labml_bn.compare latest:20 --figure curves.svg
    python -m labml_bn.compare latest:2 --live          the page in the browser, updated while the runs are running

The table shows the settings that differ between the runs, the accuracy on all test images after the last and the best
epoch, and the time. The figure shows loss and accuracy over the training images seen, and for each batch normalization
layer its running mean and variance as a band over the channels: the 15th, 50th and 85th percentile. The page is written
beside the figure, with the ending .html, and needs no other file. Its charts show values and can be zoomed; runs that
differ only in their seed are a group, or those with the same value of any setting. With --live, the page is served on
this machine until Ctrl-C, and no file is written.
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
        "runs", nargs="+", metavar="RUN", help="a folder, a uuid or the beginning of it, `latest`, or `latest:N`"
    )
    parser.add_argument(
        "--figure",
        type=Path,
        default=Path("compare.png"),
        metavar="FILE",
        help="the figure, ending in .png or .svg (default: compare.png)",
    )
    parser.add_logs_argument()
    parser.add_argument("--live", action="store_true", help="serve the page, updated while runs are running")
    parser.add_argument("--port", type=int, default=5006, help="the port of the live page (default: 5006)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the live page in a browser")
    arguments = parser.parse_args()
    if arguments.live:
        _serve(arguments)
        return
    check_writable(arguments.figure, (".png", ".svg"))

    from labml_bn.cli.text import table, terminal_width
    from labml_bn.records import figures
    from labml_bn.records.comparison import page
    from labml_bn.records.comparison.curves import Comparison
    from labml_bn.records.folder import find_runs
    from labml_bn.records.record import read_runs

    runs = read_runs(find_runs(arguments.runs, arguments.logs))
    if not runs:
        raise UserError("there are no runs to compare")
    compared = Comparison(runs)
    rows, figure = compared.rows(), compared.figure()
    print(table(rows, terminal_width()))
    figures.save(figure, arguments.figure)
    written = arguments.figure.with_suffix(".html")
    page.save(runs, [run.metrics() for run in runs], written)
    print(f"figure: {arguments.figure}")
    print(f"page: {written}")


def _serve(arguments: Namespace) -> None:
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
