"""For notebooks: a run that is plotted while it trains, and figures with alternative texts.

Needs IPython, which every notebook has. The package does not depend on it, so no other module imports this one.
"""

import time
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import DisplayHandle, display
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from labml_bn.training.loop import Evaluation

#: How each run is drawn: line, marker and its size, color. Each marker shows inside the larger ones before it.
STYLES = [("-", "o", 12, "tab:blue"), ("--", "s", 7, "tab:red"), ("-.", "^", 5, "tab:green"), (":", "D", 3, "black")]


def show(figure: Figure, alt: str) -> None:
    """Display a figure, and close it, so that the notebook does not display it once more.

    `alt` is the alternative text: what the figure shows, in one sentence. Screen readers read it instead.
    """
    display(figure, metadata=_metadata(alt))  # type: ignore[no-untyped-call]
    plt.close(figure)


def _metadata(alt: str) -> dict[str, Any]:
    """The metadata of an output with this alternative text, as JupyterLab and nbconvert read it."""
    return {"image/png": {"alt": alt}}


class LivePlot:
    """A watcher (see `loop.Watcher`) that plots its run, together with earlier ones, and updates the plot.

    It is displayed when the watcher is created. On the left is the training loss, on the right the accuracy: lines for
    the training images, as moving averages, and after each epoch a marker for the test images.

    Arguments:
        name: what the legend calls the run
        images: how many training images the run will see in all epochs
        earlier: the watchers of runs to compare with
        interval: seconds between two updates
    """

    def __init__(self, name: str, images: int, *earlier: "LivePlot", interval: float = 3.0) -> None:
        self.name = name
        self._images, self._runs, self._interval = images, [*earlier, self], interval
        self._seen = 0
        self._training: list[tuple[int, float, float]] = []  # images seen, loss, accuracy
        self._tests: list[tuple[int, float]] = []  # images seen, accuracy
        self._handle = DisplayHandle()  # type: ignore[no-untyped-call]
        self._handle.display(self.figure(), metadata=_metadata(self.alt()))  # type: ignore[no-untyped-call]
        self._updated = time.monotonic()

    def batch(self, images: int) -> None:
        """Count the images of a training batch."""
        self._seen += images

    def validation(self, epoch: int, step: int, loss: float, accuracy: float, valid: Evaluation) -> None:
        """Add the training loss and accuracy since the last validation. Updates the plot if it is time."""
        self._training.append((self._seen, loss, accuracy))
        if time.monotonic() - self._updated >= self._interval:
            self._update()

    def epoch(self, epoch: int, test: Evaluation) -> None:
        """Add the accuracy on all test images, and update the plot."""
        self._tests.append((self._seen, test.accuracy))
        self._update()

    def _update(self) -> None:
        self._handle.update(self.figure(), metadata=_metadata(self.alt()))  # type: ignore[no-untyped-call]
        self._updated = time.monotonic()

    def figure(self) -> Figure:
        """The plot of all metrics so far."""
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
        plt.close(figure)  # otherwise the notebook would display it a second time
        for run, (line, marker, size, color) in zip(self._runs, cycle(STYLES), strict=False):
            if run._training:
                seen, loss, accuracy = np.array(run._training).T
                left.plot(seen, smooth(loss), line, color=color, label=run.name)
                right.plot(seen, smooth(accuracy), line, color=color, label=f"{run.name}, training")
            if run._tests:
                style = {"color": color, "markerfacecolor": "none", "markeredgewidth": 2, "markersize": size}
                right.plot(*np.array(run._tests).T, marker, label=f"{run.name}, test", **style)
        for axis in (left, right):
            axis.set(xlabel="training images seen", xlim=(0, 1.04 * max(run._images for run in self._runs)))
            axis.xaxis.set_major_formatter("{x:,.0f}")
        left.set(title="training loss")
        right.set(title="accuracy")
        right.yaxis.set_major_formatter(PercentFormatter(1.0))
        # Once all runs are accurate, the first few batches are cut off: the rest would be too small to compare.
        accurate = all(run._tests and run._tests[-1][1] > 0.95 for run in self._runs)
        right.set_ylim(0.9 if accurate else None, 1.002)
        if any(run._training for run in self._runs):
            left.set_yscale("log")
            left.legend(loc="upper right")
            right.legend(loc="lower right")
        return figure

    def alt(self) -> str:
        """What `figure` shows, in one sentence."""
        runs = "; ".join(run._described() for run in self._runs)
        return f"Training loss and accuracy by the number of training images seen: {runs}."

    def _described(self) -> str:
        if not self._training:
            return f"{self.name}, no values yet"
        losses = smooth(np.array([loss for _, loss, _ in self._training]))
        text = f"{self.name}, training loss from {losses[0]:.3g} to {losses[-1]:.3g}"
        return f"{text} and test accuracy {self._tests[-1][1]:.2%}" if self._tests else text


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A moving average of `values` [n]: the mean of the last ten values, and at first of about a quarter of all so far.

    The loss falls fastest at first, where an average over more values would hide it.
    """
    total = np.insert(values.cumsum(), 0, 0.0)
    last = np.arange(1, len(total))
    first = last - np.minimum(10, 1 + last // 4)
    averages: NDArray[np.float64] = (total[last] - total[first]) / (last - first)
    return averages
