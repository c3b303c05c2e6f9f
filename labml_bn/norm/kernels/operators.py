"""The operations of `cpu.py` as operators of PyTorch, which `torch.compile` puts into its graph as they are.

The compiler cannot look into them. It is told only the shapes, dtypes and strides of what they return. Its own code for
the operations of `reference.py` fuses them with their neighbours, but takes longer: see the table in the README.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labml_bn.norm.kernels.loading import load

cpu: Any = load("cpu")


def is_supported(x: Tensor) -> bool:
    """Whether there are loops for the device and dtype of x."""
    return cpu is not None and bool(cpu.is_supported(x))


def can_pool(x: Tensor) -> bool:
    """As `cpu.can_pool`."""
    return bool(cpu.can_pool(x))


def _operator(name: str, outputs: Callable[..., Tensor | tuple[Tensor, ...]]) -> Any:
    """An operation as an operator. `outputs` takes the same arguments, and only allocates what it returns."""
    operator = torch.library.custom_op(f"labml_bn::{name}", getattr(cpu, name), mutates_args=())
    operator.register_fake(outputs)
    return operator


def _y(x: Tensor, pool: bool = False) -> Tensor:
    output: Tensor = cpu.new_output(cpu.laid_out(x, pool), pool)
    return output


def _vectors(x: Tensor, number: int) -> tuple[Tensor, ...]:
    return tuple(cpu.new_vector(x) for _ in range(number))


if cpu is not None:
    moments = _operator("moments", lambda x: _vectors(x, 2))
    normalize = _operator("normalize", lambda x, mean, inv_std, weight, bias, relu=False, pool=False: _y(x, pool))
    inference = _operator("inference", lambda x, mean, var, weight, bias, eps, relu=False, pool=False: _y(x, pool))
    forward = _operator("forward", lambda x, weight, bias, eps, relu=False, pool=False: (_y(x, pool), *_vectors(x, 3)))
    gradient_sums = _operator("gradient_sums", lambda dy, x, *_: _vectors(x, 2))
    input_gradient = _operator("input_gradient", lambda dy, x, *_: _y(x))
    backward = _operator("backward", lambda dy, x, *_: (_y(x), *_vectors(x, 2)))
