r"""The batch normalization layer, with the running statistics that it uses at inference.

**Convolutional layers** (§3.2). All positions of all images in the batch share the mean, the variance, $\gamma$ and
$\beta$ of their channel. A bias of the preceding convolution would be subtracted again with the mean, and $\beta$
plays its role, so such a convolution needs no bias. The paper places the layer between the linear map and the
nonlinearity.

**Inference** (§3.1). The output for one input must not depend on the other inputs in its batch. So the layer then
normalizes with constants: running statistics, which it averages over the mini-batches during training.
"""

from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bn.norm.functional import batch_norm, normalize_with
from labml_bn.norm.ghost_batches import ghost_batches
from labml_bn.norm.masking import number_of_values, position_weights
from labml_bn.norm.renormalization import Renormalization
from labml_bn.norm.running_statistics import update_running_statistics
from labml_bn.norm.transforms import is_traced, traced_call

#: The names of the state in labml's annotated implementation (nn.labml.ai/normalization/batch_norm).
ANNOTATED_NAMES = {"scale": "weight", "shift": "bias", "exp_mean": "running_mean", "exp_var": "running_var"}


#: What can follow the normalization, in the same pass over the data.
ACTIVATIONS = (None, "relu")
MAX_POOLS = (None, 2)

_Layer = TypeVar("_Layer", bound="BatchNorm")


class BatchNorm(_BatchNorm):
    r"""Batch normalization over dimension 1 of an input [batch, channels, *] (Algorithms 1 and 2).

    The input has any number of trailing dimensions, including none, and is float32, float64, bfloat16 or float16. The
    output has its shape, dtype and memory format. Statistics are computed in float32 or wider. The layer is a
    `torch.nn.modules.batchnorm._BatchNorm`, with the same names for its state. State dicts are interchangeable with
    those of `torch.nn.BatchNorm1d`, `2d` and `3d`.

    Arguments:
        num_features: the number of channels, at least 1
        eps: $\epsilon$, added to the variance; positive
        momentum: the weight of the current mini-batch in the running statistics, in [0, 1], or None for the plain
            average over all mini-batches so far
        affine: whether to learn $\gamma$ (`weight`) and $\beta$ (`bias`)
        track_running_stats: whether to keep running statistics; if not, evaluation uses the statistics of the batch
        device, dtype: of the parameters and the running statistics
        bias: whether to learn $\beta$, if `affine`
        unbiased: whether `running_var` averages the unbiased variance $\frac{m}{m-1} \sigma^2$, as in Algorithm 2 and
            PyTorch, or the biased variance $\sigma^2$, as in ONNX and Keras 3
        activation: "relu" applies the ReLU in the same pass over the data, None applies nothing. The backward pass
            needs the input and per-channel vectors in either case, and no mask: it computes the sign of y again.
        max_pool: 2 applies `torch.nn.MaxPool2d(2)` at the end, None does not. On the CPU, in channels_last, this is
            the same pass over the data, and the backward pass finds the maxima again; else it is a pass of its own
        ghost_batch_size: the number of samples of which each part of the batch, normalized with its own statistics,
            has at most so many (`ghost_batches.py`), or None for the whole batch
        renorm: the limits of batch renormalization (`renormalization.py`), or None for batch normalization

    State: `weight`, `bias` (parameters), `running_mean`, `running_var` (buffers), each [channels], and
    `num_batches_tracked`, a scalar.

    The number of channels is that of these tensors, even if they were replaced after the layer was created, as when a
    network is pruned. A layer without any of them accepts every number of channels.

    Raises ValueError if an argument is out of range, TypeError if `renorm` is not a Renormalization. The forward pass
    raises ValueError if the input has fewer than two dimensions or the wrong number of channels, with `max_pool` if it
    is not [batch, channels, height, width] with at least 2 × 2 positions or if there is a mask, if the mask has the
    wrong shape or invalid weights, or if the statistics of a batch are used and it has only one value per channel (the
    variance would be 0, and the output would not depend on the input). It raises TypeError if the input or the mask has
    the wrong dtype. An empty batch changes no running statistics. It is counted in `num_batches_tracked`, as in
    PyTorch, but not with `momentum=None`. (PyTorch counts it there too, and its plain average is then wrong.)
    """

    # Also for layers whose class was changed, and for those that an earlier version has pickled.
    unbiased: bool = True
    activation: str | None = None
    max_pool: int | None = None
    ghost_batch_size: int | None = None
    renorm: Renormalization | None = None
    frozen: bool = False  # whether `freeze` keeps the layer in evaluation
    unfrozen_mode: bool  # only of a frozen layer

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        unbiased: bool = True,
        activation: str | None = None,
        max_pool: int | None = None,
        ghost_batch_size: int | None = None,
        renorm: Renormalization | None = None,
    ) -> None:
        check_arguments(num_features, eps, momentum, activation, max_pool, ghost_batch_size)
        if not (renorm is None or isinstance(renorm, Renormalization)):
            raise TypeError(f"renorm must be a Renormalization or None, got {renorm!r}")
        if renorm is not None and not track_running_stats:
            raise ValueError("batch renormalization requires running statistics (track_running_stats=True)")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:
            self.register_parameter("bias", None)
        self.unbiased = unbiased
        self.activation = activation
        self.max_pool = max_pool
        self.ghost_batch_size = ghost_batch_size
        self.renorm = renorm

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize `input` [batch, channels, *]. The output has its dtype and, unless max-pooled, its shape.

        `mask` [batch, *] or [batch, 1, *] tells which positions count, or how much (`masking.py`). The output of those
        that do not count is 0.
        """
        if is_traced(input):
            output: Tensor = traced_call(self, *((input,) if mask is None else (input, mask)))
            return output
        self._check_input_dim(input)
        state = running_mean, running_var, weight, bias = self.running_mean, self.running_var, self.weight, self.bias
        check_channels(input, *state)
        weights = None if mask is None else self._weights(mask, input)
        relu, max_pool = self.activation == "relu", self.max_pool
        if not self.training and running_mean is not None and running_var is not None:
            constants = running_mean, running_var, weight, bias, self.eps
            return normalize_with(input, *constants, weights=weights, relu=relu, max_pool=max_pool)

        outputs = []
        for x, w in self._batches(input, weights):
            renorm = self.renorm if self.training else None
            parameters = (weight, bias) if renorm is None else renorm.correct(self, x, w)
            y, count, mean, var = batch_norm(x, *parameters, self.eps, weights=w, relu=relu, max_pool=max_pool)
            if self.training and self.track_running_stats:
                update_running_statistics(self, count, mean, var)
            outputs.append(y)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def train(self: _Layer, mode: bool = True) -> _Layer:
        """Set the mode; if the layer is frozen, the mode that `unfreeze` will give it."""
        if self.frozen:
            self.unfrozen_mode = mode
        return super().train(mode and not self.frozen)

    def _weights(self, mask: Tensor, input: Tensor) -> Tensor:
        if self.max_pool is not None:
            raise ValueError("max_pool does not support a mask: use a layer of its own for max pooling")
        return position_weights(mask, input)

    def _batches(self, x: Tensor, weights: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        """The batches, each of which is normalized with its own statistics, and the weights of its positions."""
        size = self.ghost_batch_size
        batches = [(x, weights)] if size is None else ghost_batches(x, weights, size)
        for batch in batches:
            if number_of_values(*batch) == 1:
                raise ValueError(
                    f"expected more than one value per channel to compute a variance, got an input of shape "
                    f"{tuple(batch[0].shape)}{'' if weights is None else ' of which the mask keeps one'}: "
                    f"use a larger batch{'' if size is None else ' or ghost_batch_size'}"
                    f"{', or evaluate with model.eval()' if self.training else ''}"
                )
        return batches

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2 or input.shape[1] == 0:
            raise ValueError(f"expected an input of shape [batch, channels, *], got {tuple(input.shape)}")
        if self.max_pool is not None and (input.dim() != 4 or min(input.shape[2:]) < self.max_pool):
            raise ValueError(
                f"expected an input of shape [batch, channels, height, width] with at least {self.max_pool} × "
                f"{self.max_pool} positions to max-pool, got {tuple(input.shape)}"
            )
        if not input.is_floating_point():
            raise TypeError(f"expected an input of a floating dtype, got {input.dtype}")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Also accept the state of the layer in labml's annotated implementation, under its names.

        A tensor of which the state dict has both names is loaded by ours; the other key is unexpected.
        """
        for theirs, ours in ANNOTATED_NAMES.items():
            if prefix + theirs in state_dict and prefix + ours not in state_dict:
                state_dict[prefix + ours] = state_dict.pop(prefix + theirs)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __prepare_scriptable__(self) -> NoReturn:
        """What `torch.jit.script` calls first."""
        raise NotImplementedError("torch.jit.script does not support BatchNorm: use torch.jit.trace or torch.export")

    def extra_repr(self) -> str:
        """The arguments, as printed in the network's `repr`."""
        arguments: str = super().extra_repr()  # type: ignore[no-untyped-call]
        extras = ("unbiased", "activation", "max_pool", "ghost_batch_size", "renorm")
        changed = [name for name in extras if getattr(self, name) != getattr(BatchNorm, name)]
        return ", ".join([arguments, *(f"{name}={getattr(self, name)!r}" for name in changed)])


def check_channels(input: Tensor, *vectors: Tensor | None) -> None:
    """Raise ValueError if the input has not as many channels as each of the layer's own tensors, if it has any."""
    for vector in vectors:
        if vector is not None and vector.shape[0] != input.shape[1]:
            raise ValueError(
                f"expected {vector.shape[0]} channels in dimension 1, got an input of shape {tuple(input.shape)}"
            )


def check_arguments(
    num_features: int | None,
    eps: float,
    momentum: float | None,
    activation: str | None = None,
    max_pool: int | None = None,
    ghost_batch_size: int | None = None,
) -> None:
    """Raise ValueError if an argument of the layer is out of range. `num_features` may be None if it is not known."""
    if num_features is not None and num_features < 1:
        raise ValueError(f"num_features must be at least 1, got {num_features}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1] or None, got {momentum}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
    if max_pool not in MAX_POOLS:
        raise ValueError(f"max_pool must be one of {', '.join(map(repr, MAX_POOLS))}, got {max_pool!r}")
    if ghost_batch_size is not None and not (type(ghost_batch_size) is int and ghost_batch_size >= 1):
        raise ValueError(f"ghost_batch_size must be an integer of at least 1, or None, got {ghost_batch_size!r}")
