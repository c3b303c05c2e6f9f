"""Pictures, drawn with matplotlib and written to a file."""

import logging
import math
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from labml_bn.errors import UserError
from labml_bn.files import replacing
from labml_bn.mnist import CLASSES

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it speaks of its caches

#: Mistakes in one picture, at most.
MOST = 100


def save(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all. Raises UserError where that fails."""
    try:
        with replacing(path) as part:
            figure.savefig(part, format=path.suffix[1:].lower())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def mistakes(images: Tensor, labels: Tensor, logits: Tensor, dataset: str) -> Figure:
    """The images [n, 28, 28] that were given a wrong class, the surest mistakes first, each with both classes."""
    probability, predicted = logits.softmax(dim=1).max(dim=1)
    wrong = (predicted != labels).nonzero().flatten()
    wrong = wrong[probability[wrong].argsort(descending=True, stable=True)]
    shown = wrong[:MOST]
    columns = max(1, math.ceil(math.sqrt(2 * len(shown))))  # twice as wide as high
    rows = max(1, math.ceil(len(shown) / columns))
    names = CLASSES[dataset]

    figure = Figure(figsize=(1.1 * columns + 0.4, 1.35 * rows + 0.8), layout="constrained")
    title = f"{len(wrong)} of {len(labels)} images given a wrong class"
    more = f", the {MOST} surest of them" if len(wrong) > MOST else ""
    figure.suptitle(f"{title}{more}\n(true > given, and how sure it was)" if len(wrong) else title, fontsize=9)
    for position, index in enumerate(shown.tolist(), 1):
        axes = figure.add_subplot(rows, columns, position)
        axes.imshow(images[index].cpu().numpy(), cmap="gray_r")
        axes.set_axis_off()
        true, given = names[int(labels[index])], names[int(predicted[index])]
        axes.set_title(f"{true} > {given}  {probability[index]:.0%}", fontsize=7)
    return figure
