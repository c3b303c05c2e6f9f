"""Pictures, drawn with matplotlib and written to a file."""

import contextlib
import html
import io
import logging
import math
from collections.abc import Iterator, Sequence
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
    with _writing(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower())


def save_page(rows: Sequence[Sequence[str]], figure: Figure, path: Path) -> None:
    """Write a page that needs no other file: a table, whose first row is its heading, and a picture under it.

    Raises UserError where it cannot be written.
    """
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    svg = drawn.getvalue()
    heading, *body = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    lines = "\n".join(f"<tr>{row}</tr>" for row in body)
    page = _PAGE.format(heading=heading.replace("td>", "th>"), rows=lines, svg=svg[svg.index("<svg") :])
    with _writing(path) as part:
        part.write_text(page, encoding="utf-8")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        with replacing(path) as part:
            yield part
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>labml_bn: runs compared</title>
<style>
body {{ font: 15px system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .3em .8em; text-align: left; border-bottom: 1px solid #ccc; white-space: nowrap; }}
svg {{ width: 100%; height: auto; }}
</style>
</head>
<body>
<h1>Runs compared</h1>
<div class="wide"><table>
<thead><tr>{heading}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
{svg}
</body>
</html>
"""


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
