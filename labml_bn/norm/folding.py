r"""Folding a normalization into the layer before it.

In evaluation the mean and variance are constants, and the layer is an affine map of each channel (Algorithm 2,
step 11):

$$y = a x + (\beta - a \mu) \qquad \text{with} \qquad a = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}$$

Where x itself is the output of a convolution or a linear layer, $x = W u + b$, the two maps are one:

$$y = (a W) u + (a (b - \mu) + \beta)$$

So a network can be deployed without its normalizations, and computes the same.
"""

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from labml_bn.norm.batch_norm import BatchNorm

# Exactly these classes: a subclass may compute something else.
_NORMALIZATIONS = (BatchNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class _Tracer(fx.Tracer):
    """Goes through a network down to its layers, a normalization of this project being one of them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _BatchNorm) or super().is_leaf_module(m, module_qualified_name)


def fold(model: nn.Module) -> fx.GraphModule:
    """An equivalent of `model` in evaluation, without the batch normalizations after a convolution or linear layer.

    It works for this project's layers and PyTorch's, after `Conv1d`, `2d`, `3d`, their transposed ones and `Linear`.
    What follows what is found by tracing the network, not by names. A normalization stays where it stands after
    something else, or where the output of the layer before it is used elsewhere too, or where one of the two is used
    more than once, has hooks, or has its weights read by the network itself. `model` is left as it is; the result has
    its own weights, in the original's dtypes.

    A normalization of [batch, length, channels] after a linear layer acts on the length and cannot be folded, nor one
    of the unbatched output of a convolution. Where the sizes do not tell such an input, the folded network refuses it
    with an AssertionError when it gets it.

    Raises ValueError where any part of the network is in training mode (call `model.eval()` first), where a batch
    normalization has no running estimates, and where the network cannot be traced.
    """
    for name, layer in model.named_modules():
        if layer.training:
            place = f"layer {name!r}" if name else "the network"
            raise ValueError(f"cannot fold: {place} is in training mode; call model.eval() first")
        if isinstance(layer, _BatchNorm) and (layer.running_mean is None or layer.running_var is None):
            raise ValueError(
                f"cannot fold: layer {name!r} has no running estimates, so its output depends on the batch"
            )
    model = copy.deepcopy(model)
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever the network's own code raises when it meets a stand-in for its input
        raise ValueError(f"cannot fold: the network cannot be traced by torch.fx: {error}") from error
    network = fx.GraphModule(model, graph)
    modules = dict(network.named_modules())
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    folded: list[tuple[fx.Node, int]] = []
    for node in list(graph.nodes):
        previous: Any = node.args[0] if node.args else None
        layer, before = _module(modules, node), _module(modules, previous)
        if (
            isinstance(layer, _BatchNorm)
            and before is not None
            and type(layer) in _NORMALIZATIONS
            and type(before) in (*_CONVOLUTIONS, nn.Linear)
            and not _is_hooked(layer)
            and not _is_hooked(before)
            and _channels(before) == layer.num_features
            and len(previous.users) == 1
            and calls.count(node.target) == calls.count(previous.target) == 1
            and not read & {str(node.target), str(previous.target)}
        ):
            _fold_into(before, layer)
            # A weight [out, in, *] goes with an output [batch, out, *].
            folded.append((previous, before.get_parameter("weight").dim()))
            node.replace_all_uses_with(previous)
            graph.erase_node(node)
    for output, dimensions in dict(folded).items():
        _expect_dimensions(graph, output, dimensions)
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _module(modules: dict[str, nn.Module], node: Any) -> nn.Module | None:
    is_call = isinstance(node, fx.Node) and node.op == "call_module"
    return modules[str(node.target)] if is_call else None


def _is_hooked(layer: nn.Module) -> bool:
    """Whether something else acts when the layer is called: a hook, which is also how `weight_norm` works."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _channels(layer: nn.Module) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


@torch.no_grad()
def _fold_into(before: nn.Module, layer: _BatchNorm) -> None:
    """Give `before` the weight a·W and the bias a·(b − μ) + β, computed in float64."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert isinstance(before.weight, Tensor)
    dtype = before.weight.dtype
    a = torch.rsqrt(layer.running_var.double() + layer.eps)
    if layer.weight is not None:
        a = a * layer.weight.double()
    bias = -layer.running_mean.double()
    if isinstance(before.bias, Tensor):
        bias = bias + before.bias.double()
    bias = a * bias
    if layer.bias is not None:
        bias = bias + layer.bias.double()

    weight = before.weight.double()
    if isinstance(before, _ConvTransposeNd):
        # [in, out / groups, *]: each group of inputs makes a group of outputs of its own.
        grouped = weight.unflatten(0, (before.groups, -1))
        weight = (grouped * a.view(before.groups, 1, -1, *[1] * (weight.dim() - 2))).flatten(0, 1)
    else:
        weight = weight * a.view(-1, *[1] * (weight.dim() - 1))
    before.weight = nn.Parameter(weight.to(dtype), requires_grad=before.weight.requires_grad)
    before.bias = nn.Parameter(bias.to(dtype), requires_grad=before.weight.requires_grad)


def _expect_dimensions(graph: fx.Graph, output: fx.Node, expected: int) -> None:
    """Let the network check that the output of a layer has its channels in dimension 1."""
    message = (
        f"folded into the layer before it, a batch normalization takes [batch, channels, *] of {expected} dimensions"
    )
    with graph.inserting_after(output):
        dimensions = graph.call_method("dim", (output,))
    with graph.inserting_after(dimensions):
        as_expected = graph.call_function(operator.eq, (dimensions, expected))
    with graph.inserting_after(as_expected):
        graph.call_function(torch._assert, (as_expected, message))
