"""What a person sees of a training: a live line on a terminal, a plain line per validation in a file or pipe."""

import sys
import time
from typing import Any

from tqdm import tqdm

from labml_bn.training import Evaluation


class Console:
    """Shows a training to the person at the keyboard.

    Arguments:
        epochs: epochs in all
        images: training images in an epoch
        batch_size: images in a batch
        seen: images seen before, where a run goes on
    """

    def __init__(self, epochs: int, images: int, batch_size: int, seen: int = 0) -> None:
        self._epochs = epochs
        self._steps = -(-images // batch_size)
        self._live = sys.stdout.isatty()
        self._bar = tqdm(
            total=epochs * images,
            initial=seen,
            desc=f"epoch {min(seen // images + 1, epochs)}/{epochs}",
            unit=" images",
            unit_scale=True,
            disable=not self._live,
            dynamic_ncols=True,
            leave=False,
            file=sys.stdout,
        )
        self._seen = 0
        self._started = self._epoch_started = time.monotonic()

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def batch(self, images: int) -> None:
        """Move the live line on."""
        self._seen += images
        self._bar.update(images)

    def validation(self, epoch: int, step: int, loss: float, accuracy: float, valid: Evaluation) -> None:
        """Show how the training and the network stand."""
        train = f"train loss {loss:.4f} accuracy {accuracy:.2%}"
        test = f"valid loss {valid.loss:.4f} accuracy {valid.accuracy:.2%}"
        if self._live:
            self._bar.set_postfix_str(f"loss {loss:.4f}, accuracy {valid.accuracy:.2%}")
        else:
            where = f"epoch {epoch}/{self._epochs} step {step}/{self._steps}"
            speed = f"{self._seen / (time.monotonic() - self._started):,.0f} images/s"
            self._say(f"{where}: {train}, {test}, {speed}")

    def epoch(self, epoch: int, test: Evaluation) -> None:
        """Leave a line for the epoch."""
        now = time.monotonic()
        seconds, self._epoch_started = now - self._epoch_started, now
        self._say(
            f"epoch {epoch}/{self._epochs}: test loss {test.loss:.4f} accuracy {test.accuracy:.2%}, {seconds:.1f} s"
        )
        self._bar.set_description(f"epoch {min(epoch + 1, self._epochs)}/{self._epochs}")

    def _say(self, line: str) -> None:
        if self._live:
            self._bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)


def table(rows: list[list[Any]]) -> str:
    """Rows in columns that line up, numbers at their right; the first row is a heading."""

    def cell(value: Any, width: int) -> str:
        return str(value).rjust(width) if isinstance(value, int) else str(value).ljust(width)

    widths = [max(len(str(value)) for value in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(cell, row, widths)).rstrip() for row in rows)


def duration(seconds: float) -> str:
    """A length of time for people: `42.0 s`, `3 min 5 s`, `1 h 2 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
