"""Compare runs: a table of means with intervals, a figure of their curves, and a page with both.

    python -m labml_bn.compare latest:2                 the two newest runs, in compare.png and compare.html
    python -m labml_bn.compare 42fe98 9c01 logs/batch_norm/77a0* --runs
    python -m labml_bn.compare latest:20 --by lr --figure rates.svg

Runs that differ only in their seed are a group. The table shows how many they are (n), and the means of the accuracy
and loss on all test images after the last and the best epoch, and of the time, each with its 95 % interval (Student's
t). Below it, each group is compared with the first by the difference of their means, paired by seed if most seeds are
in both groups. Runs that diverged and epochs that not all runs of a group have are in no mean; a line says so. If no
two runs are in the same group, or with --runs, the table and the figure show each run.

The figure shows loss and accuracy over the training images seen, and for each batch normalization layer its running
mean and variance as a band over the channels: the 15th, 50th and 85th percentile. With --by it shows the final accuracy
over the values of a setting. The page is written beside the figure, with the ending .html, and is self-contained.
"""

from pathlib import Path

from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import UserError
from labml_bn.cli.files import check_writable


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.compare", __doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a folder, a uuid or the beginning of it, `latest`, or `latest:N`"
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
    parser.add_logs_argument()
    arguments = parser.parse_args()
    check_writable(arguments.figure, (".png", ".svg"))

    from labml_bn.cli.text import paragraph, table, terminal_width
    from labml_bn.records import figures
    from labml_bn.records.comparison import by_setting, curves, rows
    from labml_bn.records.comparison.measured import read_groups
    from labml_bn.records.finding import find_runs
    from labml_bn.records.record import read_runs

    runs = read_runs(find_runs(arguments.runs, arguments.logs))
    if not runs:
        raise UserError("there are no runs to compare")
    key = by_setting.key_of(arguments.by, runs) if arguments.by else None
    groups = read_groups(runs)
    each_run = arguments.each_run or len(groups) == len(runs)
    lines = rows.run_rows(groups, runs) if each_run else rows.group_rows(groups)
    if key:
        figure = by_setting.figure(groups, key)
    else:
        figure = curves.figure_of_runs(groups, runs) if each_run else curves.figure_of_groups(groups)
    print(table(lines, terminal_width()))
    for sentence in rows.sentences(groups):
        print(paragraph(sentence, terminal_width()))
    figures.save(figure, arguments.figure)
    page = arguments.figure.with_suffix(".html")
    figures.save_page(lines, figure, page)
    print(f"figure: {arguments.figure}")
    print(f"page: {page}")


if __name__ == "__main__":
    run_command(main)
