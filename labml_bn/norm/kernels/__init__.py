"""The four operations of batch normalization, once per kind of hardware, and the choice of a kernel.

`reference.py` is in plain tensor operations, `cpu.py` in loops compiled by Numba, `cuda.py` in Triton. `operators.py`
has those of `cpu.py` for `torch.compile`. `layout.py` has the memory format of their results.

Batch normalization has few arithmetic operations per value, so its cost is mostly that of reading and writing memory.
If each operation is one pass over the data, as in a fused kernel, one training step reads and writes these tensors:

| operation | reads | writes |
|---|---|---|
| `moments` (forward) | x | |
| `normalize` (forward) | x | y |
| `gradient_sums` (backward) | x, dy | |
| `input_gradient` (backward) | x, dy | dx |

Each direction goes through the data twice, because each output value, and backward each input gradient, depends on all
the values of its channel. The plain tensor operations of `reference.py` also write and read intermediate results.
If max pooling follows in the same pass (`can_pool`), y and dy are a quarter of the size of x.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.nn import Parameter

from labml_bn.norm.kernels import reference
from labml_bn.norm.kernels.loading import load
from labml_bn.norm.transforms import is_observed, is_wrapped


def choose(*tensors: Tensor) -> ModuleType:
    """The fastest kernel for these tensors, of which the first is the input.

    That is the reference if its operations must be seen one by one: by autograd (double backward), a transform of
    `torch.func`, a tracer, `torch.export`, a dispatch mode or a tensor subclass; and for a device or dtype that no
    other kernel supports. For `torch.compile` it is the CPU's kernel as operators, and on a GPU the reference, whose
    operations the compiler fuses.
    """
    return reference if torch.is_grad_enabled() else _choose(tensors)


def _choose(tensors: tuple[Tensor, ...]) -> ModuleType:
    if torch.compiler.is_compiling():
        return _choose_for_compiler(tensors[0])
    if _is_observed(tensors):
        return reference
    kernel = load(tensors[0].device.type)
    return kernel if kernel is not None and kernel.is_supported(tensors[0]) else reference


def _choose_for_compiler(x: Tensor) -> ModuleType:
    if is_observed() or not x.is_cpu:
        return reference
    if type(x) not in _PLAIN:
        return reference  # a DTensor, whose parts in other processes the operators do not see
    # A function that `torch.compile` traces cannot call `load`, but it can import.
    from labml_bn.norm.kernels import operators

    return operators if operators.is_supported(x) else reference


def is_fused(kernel: ModuleType) -> bool:
    """Whether a kernel also has `forward`, `backward` and `inference`: all operations of a pass in one call."""
    return hasattr(kernel, "forward")


def can_pool(x: Tensor) -> bool:
    """Whether the kernel for x, with autograd recording or not, can normalize and max-pool in one pass."""
    kernel = _choose((x,))
    return is_fused(kernel) and bool(kernel.can_pool(x))


def _is_observed(tensors: tuple[Tensor, ...]) -> bool:
    if torch._C._len_torch_dispatch_stack() > 0 or is_observed():
        return True
    return any(type(tensor) not in _PLAIN or is_wrapped(tensor) for tensor in tensors)


_PLAIN = (Tensor, Parameter)
