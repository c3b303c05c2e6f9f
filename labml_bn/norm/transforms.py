"""What PyTorch may do with the layer besides calling it: trace it, transform it, differentiate it in forward mode.

These are private parts of PyTorch, which has no public way to ask. Those that need more than one call are in this file.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack
from torch.autograd import forward_ad

_DERIVATIVES = (_functorch.TransformType.Grad, _functorch.TransformType.Jvp)


def is_observed() -> bool:
    """Whether every operation must be one that PyTorch knows, because something else than autograd looks at them.

    That is `torch.export`, a transform of `torch.func`, differentiation in forward mode, or `torch.jit.trace`.
    """
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.compiler.is_compiling():
        return is_exporting()
    return forward_ad._current_level >= 0 or torch._C._get_tracing_state() is not None


def is_exporting() -> bool:
    """Whether `torch.export` runs. In torch 2.9, `torch.compiler.is_exporting` is true in a compiled function too."""
    return torch.compiler._is_exporting_flag


def is_wrapped(x: Tensor) -> bool:
    """Whether x is the tensor of a transform, without memory of its own; also of `torch.autograd.grad` for a batch."""
    return _functorch.is_functorch_wrapped_tensor(x) or _functorch.is_legacy_batchedtensor(x)


def is_readable(x: Tensor) -> bool:
    """Whether the values of x are there now, so that an error can depend on them."""
    return not (
        torch.compiler.is_compiling()
        or x.is_meta
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or is_wrapped(x)
    )


@contextlib.contextmanager
def outside_transforms(*values: Any) -> Iterator[tuple[Any, ...]]:
    """For the block, leave the transforms of `torch.func`, up to a `vmap` over one of the values.

    Those that compute derivatives do not allow changing a tensor in place that comes from outside of them. Yields the
    values, of which the tensors are without derivatives.
    """
    with contextlib.ExitStack() as left:
        while (transform := _functorch.peek_interpreter_stack()) is not None:
            level = transform.level()
            inside = [isinstance(value, Tensor) and _functorch.maybe_get_level(value) == level for value in values]
            if transform.key() not in _DERIVATIVES and any(inside):
                break
            values = tuple(
                _functorch.get_unwrapped(value) if is_inside else value
                for value, is_inside in zip(values, inside, strict=True)
            )
            left.enter_context(temporarily_pop_interpreter_stack())
        yield values


def is_vmapped_alone(x: Any, y: Tensor) -> bool:
    """Whether x is a tensor with a dimension that `torch.func.vmap` hides, and y has none."""
    return isinstance(x, Tensor) and _functorch.is_batchedtensor(x) and not _functorch.is_batchedtensor(y)


def is_traced(x: Any) -> bool:
    """Whether x stands for a tensor in `torch.fx.symbolic_trace`, and has neither shape nor values."""
    return isinstance(x, fx.Proxy)


def traced_call(layer: nn.Module, *arguments: Any) -> Any:
    """The output of a call of `layer` that `torch.fx.symbolic_trace` records, of which the first argument is a proxy.

    The layer becomes one node of the graph, as PyTorch's layers do. Raises ValueError if it is the network itself, of
    which it cannot be a node, or has hooks: they would run when the layer is traced, and again when the graph is.
    """
    tracer = arguments[0].tracer
    if layer is tracer.root:
        raise ValueError("cannot trace a layer that is not part of a network: trace torch.nn.Sequential(layer)")
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise ValueError("cannot trace a layer with hooks: make it a leaf of the tracer (torch.fx.Tracer)")
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), arguments, {})
