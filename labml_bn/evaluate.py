"""Evaluate the network of a run on the test images.

    python -m labml_bn.evaluate latest                              with the running statistics, as in inference
    python -m labml_bn.evaluate RUN --statistics population         with the population's, over all training images
    python -m labml_bn.evaluate RUN --statistics population:1000    the same, over the first 1000
    python -m labml_bn.evaluate RUN --statistics batch              with those of each test batch
    python -m labml_bn.evaluate RUN --figure mistakes.png           draw the misclassified images
    python -m labml_bn.evaluate RUN --checkpoint last               a run that has not finished, or is still running
    python -m labml_bn.evaluate RUN --checkpoint best               the checkpoint with the best accuracy

Prints the loss, the accuracy with its 95 % interval (Wilson 1927), and the confusion matrix: a row for each true class,
a column for each predicted class.
"""

import argparse
from pathlib import Path
from typing import Any

from labml_bn.cli import threads
from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.files import check_writable
from labml_bn.cli.text import printable


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.evaluate", __doc__)
    parser.add_run_argument()
    parser.add_argument(
        "--statistics",
        type=_statistics,
        default=("running", None),
        metavar="running|population[:N]|batch",
        help="the mean and variance to normalize by (default: running)",
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the misclassified images (.png, .svg, .pdf)")
    parser.add_argument("--checkpoint", choices=("best", "last"), help="use a checkpoint, also of an unfinished run")
    parser.add_data_argument()
    arguments = parser.parse_args()
    if arguments.figure:
        check_writable(arguments.figure, (".png", ".svg", ".pdf"))

    threads.let_sleep()
    from labml_bn.trained.evaluation import classify
    from labml_bn.trained.weights import load_run

    source, trained = load_run(arguments.run, arguments.logs, arguments.data, arguments.checkpoint)
    statistics, samples = arguments.statistics
    classification = classify(trained, statistics, samples, _progress)
    of = f" of the first {samples} training images" if samples else ""
    print(printable(f"{source}: {trained.dataset}, norm={trained.settings['norm']}, {statistics} statistics{of}"))
    print(classification.report())
    if arguments.figure:
        from labml_bn.records import figures
        from labml_bn.trained.mistakes import draw_mistakes

        figures.save(draw_mistakes(classification), arguments.figure)
        print(f"mistakes: {arguments.figure}")


def _statistics(text: str) -> tuple[str, int | None]:
    """`running`, `batch`, `population` or `population:N`."""
    kind, colon, samples = text.partition(":")
    if kind not in {"running", "population", "batch"} or (colon and kind != "population"):
        raise argparse.ArgumentTypeError(f"{text!r} is not running, population[:N] or batch")
    if not colon:
        return kind, None
    if not samples.isdecimal() or int(samples) < 2:
        raise argparse.ArgumentTypeError(f"population:N needs a number of images, at least 2, got {samples!r}")
    return kind, int(samples)


def _progress(batches: Any) -> Any:
    """A progress bar on a terminal."""
    from tqdm import tqdm

    return tqdm(batches, desc="population", leave=False, disable=None)


if __name__ == "__main__":
    run_command(main)
