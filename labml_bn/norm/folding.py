r"""Folding a batch normalization into the preceding convolution or linear layer.

At inference the mean and the variance are constants, and the normalization is an affine map of each channel (Algorithm
2, step 11):

$$y = a x + (\beta - a \mu) \qquad a = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}$$

If x is the output of a convolution or a linear layer, $x = W u + b$, the two maps compose to one, in which $a$
multiplies each output channel of $W$:

$$y = (a W) u + (a (b - \mu) + \beta)$$

So a network can be deployed without its batch normalization layers, and computes the same function up to rounding.
"""

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.lazy import LazyModuleMixin

from labml_bn.norm.batch_norm import BatchNorm
from labml_bn.norm.dimensions import TORCH_CLASSES

# Exactly these classes: a subclass may compute something else.
_NORMS = (BatchNorm, *TORCH_CLASSES, *TORCH_CLASSES.values(), nn.SyncBatchNorm)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (*_CONVOLUTIONS, nn.Linear)


class _Tracer(fx.Tracer):
    """Does not trace into batch normalization layers: each is one node of the graph."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _BatchNorm) or super().is_leaf_module(m, module_qualified_name)


def fold(model: nn.Module) -> fx.GraphModule:
    """Return an equivalent network for inference, with batch normalizations folded into the preceding layers.

    >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), BatchNorm(8), nn.ReLU()).eval()
    >>> [type(layer).__name__ for layer in fold(model).children()]
    ['Conv2d', 'ReLU']

    It supports this project's layers and PyTorch's, after `Conv1d`, `2d`, `3d`, their transposed versions and `Linear`.
    The preceding layer is found by tracing the network with `torch.fx`. A normalization is not folded if it follows
    anything else or is called with a mask, if the output of the preceding layer is also used elsewhere, or if one of
    the two layers is called more than once, has hooks or parametrizations (weight norm, spectral norm, pruning), or has
    parameters that the network reads directly. `model` does not change. The result has its own weights, in the dtypes
    of the original. A folded weight or bias requires a gradient if a parameter that it was computed from does.

    If a linear layer outputs [batch, length, channels], the layer normalizes dimension 1, the length, and cannot be
    folded. Nor can it be folded after a convolution with unbatched input. If the number of channels does not reveal
    this, the folded network raises AssertionError when it receives such an input.

    Raises ValueError if any module of the network is in training mode (call `model.eval()` first), if a batch
    normalization keeps no running statistics, if a lazy layer has not been called, or if the network cannot be copied
    or traced.
    """
    for name, layer in model.named_modules():
        if layer.training:
            place = f"layer {name!r}" if name else "the network"
            raise ValueError(f"cannot fold: {place} is in training mode; call model.eval() first")
        if isinstance(layer, LazyModuleMixin) and layer.has_uninitialized_params():  # type: ignore[misc]
            raise ValueError(f"cannot fold: layer {name!r} is lazy and not initialized; call the network first")
        if isinstance(layer, _BatchNorm) and (layer.running_mean is None or layer.running_var is None):
            raise ValueError(
                f"cannot fold: layer {name!r} keeps no running statistics, so its output depends on the batch"
            )
    model = _copied(model)
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # any exception that the code of the network raises when it is traced
        raise ValueError(f"cannot fold: the network cannot be traced by torch.fx: {error}") from error
    network = fx.GraphModule(model, graph)

    expected: dict[fx.Node, int] = {}
    for node in list(graph.nodes):
        if (pair := _foldable_pair(network, node)) is not None:
            _fold_into(*pair)
            previous = node.args[0]
            expected[previous] = pair[0].get_parameter("weight").dim()  # [out, in, *] goes with [batch, out, *]
            output = previous
            with graph.inserting_before(node):
                if getattr(pair[1], "activation", None) == "relu":
                    output = graph.call_function(functional.relu, (output,))
                if (max_pool := getattr(pair[1], "max_pool", None)) is not None:
                    output = graph.call_function(functional.max_pool2d, (output, max_pool))
            node.replace_all_uses_with(output)
            graph.erase_node(node)
    for output, dimensions in expected.items():
        _assert_dimensions(graph, output, dimensions)
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy. Tensors that were computed from parameters, as by pruning or weight norm, are copied as constants.

    `copy.deepcopy` refuses them. The hooks that have computed them do so again in the next forward pass.
    """
    tensors = [value for module in model.modules() for value in (*vars(module).values(), *module.buffers(False))]
    computed = [value for value in tensors if isinstance(value, Tensor) and not value.is_leaf]
    try:
        return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})
    except Exception as error:  # any exception that a module or one of its attributes raises when it is copied
        reason = str(error).split(". ")[0]
        raise ValueError(f"cannot fold: the network cannot be copied by copy.deepcopy: {reason}") from error


def _foldable_pair(network: fx.GraphModule, node: fx.Node) -> tuple[nn.Module, _BatchNorm] | None:
    """The layer before a batch normalization and the normalization, or None if they cannot be folded."""
    previous = node.args[0] if node.args else None
    layer, norm = _called_module(network, previous), _called_module(network, node)
    if not isinstance(previous, fx.Node) or layer is None or not isinstance(norm, _BatchNorm):
        return None
    if type(norm) not in _NORMS or type(layer) not in _LAYERS:
        return None
    if any(argument is not None for argument in (*node.args[1:], *node.kwargs.values())):  # a mask
        return None
    if _has_hooks(layer) or _has_hooks(norm):
        return None
    per_channel = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    if {len(tensor) for tensor in per_channel if tensor is not None} != {_channels(layer)}:
        return None  # the normalization acts on another dimension
    if len(previous.users) > 1:  # something else uses the output before the normalization
        return None
    pair = {str(previous.target), str(node.target)}
    calls = [other for other in network.graph.nodes if other.op == "call_module" and other.target in pair]
    if len(calls) > 2:  # another call shares the parameters
        return None
    reads = {str(other.target).rpartition(".")[0] for other in network.graph.nodes if other.op == "get_attr"}
    if reads & pair:  # the network reads a parameter directly, as with tied weights
        return None
    return layer, norm


def _called_module(network: fx.GraphModule, node: Any) -> nn.Module | None:
    is_call = isinstance(node, fx.Node) and node.op == "call_module"
    return network.get_submodule(str(node.target)) if is_call else None


def _has_hooks(layer: nn.Module) -> bool:
    """Whether a hook may change the input, the output or (as in `torch.nn.utils.weight_norm`) the weight."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _channels(layer: nn.Module) -> int:
    """The number of output channels of the weight. (`out_channels` is wrong if the layer was pruned by hand.)"""
    assert isinstance(layer.weight, Tensor)
    return layer.weight.shape[1] * layer.groups if isinstance(layer, _ConvTransposeNd) else layer.weight.shape[0]


@torch.enable_grad()
def _fold_into(layer: nn.Module, norm: _BatchNorm) -> None:
    """Apply the equation above to the weight and bias of `layer`, in float64.

    Autograd knows which of the two results depends on a parameter that requires a gradient.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert isinstance(layer.weight, Tensor)
    dtype = layer.weight.dtype
    a = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        a = a * norm.weight.double()
    bias = -norm.running_mean.double()
    if isinstance(layer.bias, Tensor):
        bias = bias + layer.bias.double()
    bias = a * bias
    if norm.bias is not None:
        bias = bias + norm.bias.double()

    weight = layer.weight.double()
    if isinstance(layer, _ConvTransposeNd):
        # [in, out / groups, *]: each group of input channels has its own output channels.
        grouped = weight.unflatten(0, (layer.groups, -1))
        weight = (grouped * a.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))).flatten(0, 1)
    else:
        weight = weight * a.view(-1, *[1] * (weight.dim() - 1))
    layer.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=weight.requires_grad)
    layer.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=bias.requires_grad)


def _assert_dimensions(graph: fx.Graph, output: fx.Node, expected: int) -> None:
    """Add an assertion to the network: the output of a layer has its channels in dimension 1."""
    message = f"a layer with a folded batch normalization must output [batch, channels, *] with {expected} dimensions"
    with graph.inserting_after(output):
        dimensions = graph.call_method("dim", (output,))
    with graph.inserting_after(dimensions):
        as_expected = graph.call_function(operator.eq, (dimensions, expected))
    with graph.inserting_after(as_expected):
        graph.call_function(torch._assert, (as_expected, message))
