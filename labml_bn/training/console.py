"""What a user sees of a run: a live line on a terminal, or a plain line per validation when output is redirected."""

import sys
import time

from labml_bn.cli import text
from labml_bn.training.live_line import LiveLine
from labml_bn.training.loop import Evaluation


class Console:
    """Shows the progress of a run.

    Arguments:
        epochs: the number of epochs
        images: training images in an epoch
        batch_size: images in a batch
        seen: images seen before, if the run is resumed
    """

    def __init__(self, epochs: int, images: int, batch_size: int, seen: int = 0) -> None:
        self._epochs = epochs
        self._steps = -(-images // batch_size)
        self._live = sys.stdout.isatty()
        self._line = LiveLine(
            total=epochs * images,
            initial=seen,
            desc=f"epoch {min(seen // images + 1, epochs)}/{epochs}",
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
        self._line.close()

    def batch(self, images: int) -> None:
        """Advance the live line."""
        self._seen += images
        self._line.update(images)

    def validation(self, epoch: int, step: int, loss: float, accuracy: float, valid: Evaluation) -> None:
        """Show the training and validation metrics."""
        train = f"train loss {text.loss(loss)} accuracy {accuracy:.2%}"
        test = f"valid loss {text.loss(valid.loss)} accuracy {valid.accuracy:.2%}"
        if self._live:
            self._line.set_postfix_str(f"accuracy {valid.accuracy:.2%}, loss {text.loss(loss)}")
        else:
            where = f"epoch {epoch}/{self._epochs} step {step}/{self._steps}"
            speed = f"{self._seen / (time.monotonic() - self._started):,.0f} images/s"
            self._print(f"{where}: {train}, {test}, {speed}")

    def epoch(self, epoch: int, test: Evaluation) -> None:
        """Print a line that stays for each epoch."""
        now = time.monotonic()
        seconds, self._epoch_started = now - self._epoch_started, now
        result = f"test loss {text.loss(test.loss)} accuracy {test.accuracy:.2%}"
        self._print(f"epoch {epoch}/{self._epochs}: {result}, {seconds:.1f} s")
        self._line.set_description_str(f"epoch {min(epoch + 1, self._epochs)}/{self._epochs}")

    def _print(self, line: str) -> None:
        if self._live:
            self._line.write(line, file=sys.stdout)
        else:
            print(line, flush=True)
