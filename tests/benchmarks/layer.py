"""The layer's forward and backward pass against PyTorch's, at the sizes of the network.

    python -m tests.benchmarks.layer

Prints the medians of 30 calls each, in milliseconds, and their ratio.
"""

import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from labml_bn import BatchNorm
from labml_bn.cli.text import table


def median_ms(call: Callable[[], object], calls: int = 30, warm_up: int = 5) -> float:
    """The median time of a call, the first few left out."""
    times = []
    for _ in range(warm_up + calls):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm_up:]) * 1e3


def step(layer: nn.Module, x: Tensor, dy: Tensor) -> None:
    """A forward and a backward pass."""
    layer(x).backward(dy)


def main() -> None:
    """Print the table."""
    rows: list[list[object]] = [["shape", "memory", "PyTorch", "ours", "ratio"]]
    for shape in ((64, 20, 24, 24), (64, 50, 8, 8), (64, 500)):
        for channels_last in (False, True) if len(shape) == 4 else (False,):
            x = torch.randn(shape)
            if channels_last:
                x = x.to(memory_format=torch.channels_last)
            x.requires_grad_()
            dy = torch.randn_like(x)
            theirs = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1])
            ours = BatchNorm(shape[1])
            a, b = (median_ms(functools.partial(step, layer, x, dy)) for layer in (theirs, ours))
            memory = "channels_last" if channels_last else "contiguous"
            rows.append([shape, memory, f"{a:.2f}", f"{b:.2f}", f"{b / a:.1f}"])
    print(table(rows))


if __name__ == "__main__":
    main()
