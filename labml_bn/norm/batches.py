"""Batches for a network: the tensor that it is called with, or a mapping of keyword arguments, such as x and a mask."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

#: Inputs, or tuples and lists that begin with one. An input is a tensor [batch, ...] or a mapping of keyword arguments.
Batches = Iterable[Any]


def inputs(batches: Batches, samples: int | None = None) -> Iterator[Any]:
    """The inputs of the batches, up to the given number of samples in total."""
    for batch in batches:
        x = batch[0] if isinstance(batch, tuple | list) else batch
        if samples is not None:
            x = _first(x, samples)
            samples -= number_of_samples(x)
        yield x
        if samples == 0:
            return


def call(model: nn.Module, x: Any) -> Any:
    """The output of the network for an input."""
    return model(**x) if isinstance(x, Mapping) else model(x)


def number_of_samples(x: Any) -> int:
    """The size of the first dimension of an input; of a mapping, that of its first tensor."""
    if isinstance(x, Mapping):
        return next((len(value) for value in x.values() if isinstance(value, Tensor)), 0)
    return len(x)


def _first(x: Any, samples: int) -> Any:
    if isinstance(x, Mapping):
        return {name: value[:samples] if isinstance(value, Tensor) else value for name, value in x.items()}
    return x[:samples]
