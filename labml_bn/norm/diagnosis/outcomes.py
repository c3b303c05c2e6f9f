"""What the network gives with one choice of statistics or another: the loss, or the change of the output."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

#: Takes the output and the target of a batch.
Loss = Callable[[Any, Any], Tensor | float]


class Outcomes:
    """For each choice of statistics, the loss, or how much the output differs from that with the running ones.

    A loss is averaged over the samples. The difference of outputs is its root mean square over that of the output.
    """

    def __init__(self, loss: Loss | None) -> None:
        self.loss = loss
        self._sums: dict[Any, tuple[float, float]] = {}

    def add(self, choice: Any, output: Any, reference: Any, target: Any, samples: int) -> None:
        """Add the network's output for a batch; `reference` is that with the running statistics."""
        if self.loss is not None:
            value = self.loss(output, target)
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"expected a loss of one number, the mean over the batch, got {tuple(value.shape)}")
            new = float(value) * samples, float(samples)
        else:
            pairs = list(zip(_tensors(output), _tensors(reference), strict=True))
            new = _square_sum(one.double() - other.double() for one, other in pairs), _square_sum(t for _, t in pairs)
        above, below = self._sums.get(choice, (0.0, 0.0))
        self._sums[choice] = above + new[0], below + new[1]

    def __getitem__(self, choice: Any) -> float:
        """NaN if there is no such choice."""
        above, below = self._sums.get(choice, (math.nan, math.nan))
        if self.loss is not None or math.isnan(above + below):
            return above / below if below else math.nan
        return 0.0 if above == 0 else math.sqrt(above / below) if below > 0 else math.inf


def _tensors(output: Any) -> list[Tensor]:
    """The floating tensors of a network's output: a tensor, or tuples, lists and dicts of them."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _square_sum(tensors: Iterable[Tensor]) -> float:
    return sum(tensor.double().square().sum().item() for tensor in tensors)
