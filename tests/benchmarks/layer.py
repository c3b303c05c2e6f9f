"""The layer's time relative to PyTorch's layer, with and without a ReLU: `python -m tests.benchmarks.layer`.

Forward and backward pass in training (the gradients of the input, the weight and the bias), and the forward pass in
evaluation. The first three shapes are those of the network.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bn import BatchNorm
from labml_bn.cli.command import run_command
from tests.benchmarks.command import run_part
from tests.benchmarks.measuring import Measurements, Options, Row, compare, geometric_mean, interleaved

SHAPES = ((64, 20, 24, 24), (64, 50, 8, 8), (64, 500), (256, 64, 32, 32), (1024, 20, 24, 24))

#: The layer can apply the ReLU itself.
FUSED = "activation" in inspect.signature(BatchNorm).parameters

Layer = Callable[[Tensor], Tensor]


def measure(options: Options) -> Measurements:
    """Every shape and memory format, without and with a ReLU."""
    torch.manual_seed(0)
    training: list[Row] = []
    evaluation: list[Row] = []
    for full in SHAPES:
        shape = (min(full[0], 8), *full[1:]) if options.quick else full
        for memory_format in ("contiguous", "channels_last") if len(shape) == 4 else ("contiguous",):
            for relu in (False, True):
                case = f"{list(shape)} {memory_format}{' + ReLU' if relu else ''}"
                ours, theirs, x = prepare(shape, memory_format, relu)
                dy = torch.randn_like(x)
                calls = {name: functools.partial(forward_backward, *layer, x, dy) for name, layer in (ours, theirs)}
                yield (row := _compare(f"{case}, forward + backward", calls, options))
                training.append(row)
                for module, _ in (ours[1], theirs[1]):
                    module.eval()
                calls = {name: functools.partial(forward, layer[1], x) for name, layer in (ours, theirs)}
                yield (row := _compare(f"{case}, evaluation", calls, options))
                evaluation.append(row)
    for kind, rows in ((", forward + backward", training), (", evaluation", evaluation)):
        yield geometric_mean(kind, rows)
        largest = max(rows, key=lambda row: row.ratio or 0.0)
        yield Row(f"largest: {largest.what}", largest.against, largest.ratio)
    yield geometric_mean("", training + evaluation)
    yield f"our ReLU is {'part of the layer (activation)' if FUSED else 'F.relu'}, PyTorch's is F.relu"


Named = tuple[str, tuple[nn.Module, Layer]]


def prepare(shape: Sequence[int], memory_format: str, relu: bool) -> tuple[Named, Named, Tensor]:
    """Our layer and PyTorch's, each as a module and as the function to call, and an input.

    Raises AssertionError if the outputs of the two differ.
    """
    x = torch.randn(*shape)
    if memory_format == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    x.requires_grad_()
    arguments: dict[str, Any] = {"activation": "relu"} if relu and FUSED else {}
    ours = BatchNorm(shape[1], **arguments)
    theirs = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1])
    call_ours = with_relu(ours) if relu and not FUSED else ours
    call_theirs = with_relu(theirs) if relu else theirs
    torch.testing.assert_close(call_ours(x), call_theirs(x), rtol=1e-4, atol=1e-4)
    return ("ours", (ours, call_ours)), ("theirs", (theirs, call_theirs)), x


def with_relu(layer: Layer) -> Layer:
    """The layer, then PyTorch's ReLU."""
    return lambda x: F.relu(layer(x))


def forward_backward(module: nn.Module, layer: Layer, x: Tensor, dy: Tensor) -> None:
    """A forward and a backward pass."""
    torch.autograd.grad(layer(x), (x, *module.parameters()), dy)


@torch.no_grad()
def forward(layer: Layer, x: Tensor) -> None:
    """A forward pass without gradients."""
    layer(x)


def _compare(what: str, calls: dict[str, functools.partial[None]], options: Options) -> Row:
    least, most = (2, 2) if options.quick else (30, 1000)
    times = interleaved(calls, warm_up=1 if options.quick else 5, least=least, most=most, seconds=3)
    return compare(what, "PyTorch", times["ours"], times["theirs"])


if __name__ == "__main__":
    run_command(lambda: run_part("layer", __doc__, measure))
