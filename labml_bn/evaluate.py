"""Evaluate a finished run on the test images.

    python -m labml_bn.evaluate latest                              by the running estimates, as at inference
    python -m labml_bn.evaluate RUN --statistics population         by the population's, over all training images
    python -m labml_bn.evaluate RUN --statistics population:1000    the same, over the first 1000
    python -m labml_bn.evaluate RUN --statistics batch              by each test batch's own
    python -m labml_bn.evaluate RUN --figure mistakes.png           draw what it gets wrong

Prints the loss, the accuracy with its 95 % interval (Wilson 1927), and the confusion matrix: a row for each true class,
a column for each that the network gave.
"""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labml_bn.command import Parser, run_command
from labml_bn.errors import UsageError, UserError
from labml_bn.files import check_writable

#: The kinds of picture that can be written.
PICTURES = (".png", ".svg", ".pdf")

if TYPE_CHECKING:
    from torch import Tensor

    from labml_bn.configs import Configs


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.evaluate", __doc__)
    parser.add_run_argument()
    parser.add_argument(
        "--statistics",
        type=_statistics,
        default=("running", None),
        metavar="running|population[:N]|batch",
        help="where the mean and variance come from (default: running)",
    )
    parser.add_argument(
        "--figure", type=Path, metavar="FILE", help="write the mistakes as a picture (.png, .svg, .pdf)"
    )
    parser.add_data_argument()
    arguments = parser.parse_args()

    if arguments.figure:
        check_writable(arguments.figure, PICTURES)

    from labml_bn.weights import load_run

    run, c = load_run(arguments.run, arguments.logs, arguments.data)
    kind, samples = arguments.statistics
    _take_statistics(c, kind, samples)
    of = f" of the first {samples} training images" if samples else ""
    print(f"{run}: {c.dataset}, norm={c.norm}, {kind} statistics{of}")
    logits, labels = _logits(c)
    print(_report(logits, labels, c.dataset))
    if arguments.figure:
        from labml_bn import figures

        mistakes = figures.mistakes(c.valid_digits.images, labels, logits, c.dataset)
        figures.save(mistakes, arguments.figure)
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


def _take_statistics(c: "Configs", kind: str, samples: int | None) -> None:
    """Let the normalizations of the run's network use the statistics that were asked for."""
    from torch.nn.modules.batchnorm import _BatchNorm
    from tqdm import tqdm

    from labml_bn import estimate_population

    layers = [layer for layer in c.model.modules() if isinstance(layer, _BatchNorm)]
    if kind != "running" and not layers:
        raise UsageError(f"norm={c.norm} has no statistics to take from elsewhere: leave --statistics out")
    if kind == "population":
        if samples is not None and samples > len(c.train_digits):
            raise UsageError(f"population:{samples} is more than the run's {len(c.train_digits)} training images")

        def progress(batches: Any) -> Any:
            return tqdm(batches, desc="population", leave=False, disable=None)

        estimate_population(c.model, c.train_digits.batches(c.valid_batch_size), samples=samples, progress=progress)
    elif kind == "batch":
        if c.valid_batch_size == 1 or c.valid_samples % c.valid_batch_size == 1:
            raise UserError(f"valid_batch_size={c.valid_batch_size} makes a batch of one image: it has no variance")
        for layer in layers:
            layer.running_mean = layer.running_var = None


def _logits(c: "Configs") -> tuple["Tensor", "Tensor"]:
    """The network's logits [n, 10] for all the test images, and their labels [n]."""
    import torch

    with torch.no_grad():
        outputs = [(c.model(images), labels) for images, labels in c.valid_digits.batches(c.valid_batch_size)]
    logits, labels = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    return logits.cpu(), labels.cpu()


def _report(logits: "Tensor", labels: "Tensor", dataset: str) -> str:
    """Loss, accuracy with its interval, and the confusion matrix."""
    import torch
    from torch.nn import functional as F

    from labml_bn.console import table
    from labml_bn.mnist import CLASSES

    predicted = logits.argmax(dim=1)
    correct, n = int((predicted == labels).sum()), len(labels)
    low, high = wilson_interval(correct, n)
    loss = F.cross_entropy(logits, labels).item()
    classes = CLASSES[dataset]
    confusion = torch.bincount(labels * len(classes) + predicted, minlength=len(classes) ** 2).view(len(classes), -1)
    rows = [["true \\ given", *classes], *([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True))]
    return (
        f"test loss {loss:.4f}\n"
        f"accuracy {correct / n:.2%} ({correct} of {n}), 95% interval {low:.2%} to {high:.2%}\n\n{table(rows)}"
    )


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of Wilson 1927 for a proportion, `correct` of `n`; it stays sound near 0 and 1."""
    z = 1.959963984540054  # the 97.5 % point of the normal distribution
    p = correct / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


if __name__ == "__main__":
    run_command(main)
