"""Pictures, drawn with matplotlib and written to a file."""

import math
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from labml_bn.errors import UsageError, UserError
from labml_bn.mnist import CLASSES

ENDINGS = (".png", ".svg", ".pdf")

#: Mistakes in one picture, at most.
MOST = 100


def check(path: Path) -> None:
    """Raise UsageError where a picture cannot be written to `path`: better before the work than after it."""
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{path}: a picture's name ends in {', '.join(ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")


def save(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all. Raises UserError where that fails."""
    part = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(part, format=path.suffix[1:].lower())
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


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
