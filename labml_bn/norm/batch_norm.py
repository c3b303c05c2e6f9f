r"""The batch normalization layer, with the running statistics that it uses at inference.

**Convolutional layers** (§3.2). All positions of all images in the batch share the mean, the variance, $\gamma$ and
$\beta$ of their channel. A bias of the preceding convolution would be subtracted again with the mean, and $\beta$
plays its role, so such a convolution needs no bias. The paper places the layer between the linear map and the
nonlinearity.

**Inference** (§3.1). The output for one input must not depend on the other inputs in its batch. So the layer then
normalizes with constants: running statistics, which it averages over the mini-batches during training.
"""

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bn.norm.functional import batch_norm, normalize_with
from labml_bn.norm.recomputation import once_per_batch

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

    State: `weight`, `bias` (parameters), `running_mean`, `running_var` (buffers), each [channels], and
    `num_batches_tracked`, a scalar.

    Raises ValueError if `num_features`, `eps` or `momentum` is out of range. The forward pass raises ValueError if the
    input has fewer than two dimensions or the wrong number of channels, with `max_pool` if it is not [batch, channels,
    height, width] with at least 2 × 2 positions, or if the statistics of the batch are used and
    it has only one value per channel (the variance would be 0, and the output would not depend on the input). It raises
    TypeError if the input is not of a floating dtype. An empty batch does not change the running
    statistics, but is counted in `num_batches_tracked`, as in PyTorch.
    """

    # Also for layers whose class was changed, and for those that an earlier version has pickled.
    unbiased: bool = True
    activation: str | None = None
    max_pool: int | None = None
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
    ) -> None:
        check_arguments(num_features, eps, momentum, activation, max_pool)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:
            self.register_parameter("bias", None)
        self.unbiased = unbiased
        self.activation = activation
        self.max_pool = max_pool

    def forward(self, input: Tensor) -> Tensor:
        """Normalize `input` [batch, channels, *]. The output has its dtype and, unless max-pooled, its shape."""
        self._check_input_dim(input)
        relu, max_pool = self.activation == "relu", self.max_pool
        if not self.training and self.running_mean is not None and self.running_var is not None:
            statistics = self.running_mean, self.running_var
            return normalize_with(input, *statistics, self.weight, self.bias, self.eps, relu=relu, max_pool=max_pool)

        if input.numel() == self.num_features:
            raise ValueError(
                f"expected more than one value per channel to compute a variance, got an input of shape "
                f"{tuple(input.shape)}: use a larger batch{', or evaluate with model.eval()' if self.training else ''}"
            )
        y, count, mean, var = batch_norm(input, self.weight, self.bias, self.eps, relu=relu, max_pool=max_pool)
        if self.training and self.track_running_stats:
            self._update_running_statistics(count, mean, var)
        return y

    def train(self: _Layer, mode: bool = True) -> _Layer:
        """Set the mode; if the layer is frozen, the mode that `unfreeze` will give it."""
        if self.frozen:
            self.unfrozen_mode = mode
        return super().train(mode and not self.frozen)

    @once_per_batch
    @torch.no_grad()
    def _update_running_statistics(self, count: int, mean: Tensor, var: Tensor) -> None:
        r"""Update the exponential moving averages of mean and variance (§3.1), or plain ones without a momentum.

        $$\text{running} \leftarrow (1 - \text{momentum}) \cdot \text{running} + \text{momentum} \cdot \text{batch}$$
        """
        running_mean, running_var, batches = self.running_mean, self.running_var, self.num_batches_tracked
        if running_mean is None or running_var is None:
            return
        if batches is not None:
            batches.add_(1)
        if count == 0:
            return

        momentum: float | Tensor
        if self.momentum is not None:
            momentum = self.momentum
        elif batches is not None:
            momentum = 1 / batches.to(mean.dtype)  # gives the plain average
        else:
            momentum = 0.0  # the plain average requires the number of batches: no update, as in PyTorch

        if self.unbiased:
            var = var * (count / (count - 1))
        for running, current in ((running_mean, mean), (running_var, var)):
            if running.dtype == current.dtype and not torch._C._are_functorch_transforms_active():
                running.lerp_(current, momentum)
            else:  # `lerp_` would round to the narrower dtype twice, and cannot be vectorized by vmap
                running.copy_(torch.lerp(running.to(current.dtype), current, momentum))

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected an input of shape [batch, channels, *], got {tuple(input.shape)}")
        if input.shape[1] != self.num_features:
            raise ValueError(
                f"expected {self.num_features} channels in dimension 1, got an input of shape {tuple(input.shape)}"
            )
        if self.max_pool is not None and (input.dim() != 4 or min(input.shape[2:]) < self.max_pool):
            raise ValueError(
                f"expected an input of shape [batch, channels, height, width] with at least {self.max_pool} × "
                f"{self.max_pool} positions to max-pool, got {tuple(input.shape)}"
            )
        if not input.is_floating_point():
            raise TypeError(f"expected an input of a floating dtype, got {input.dtype}")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Also accept the state of the layer in labml's annotated implementation, under its names."""
        for theirs, ours in ANNOTATED_NAMES.items():
            if prefix + theirs in state_dict:
                state_dict[prefix + ours] = state_dict.pop(prefix + theirs)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """The arguments, as printed in the network's `repr`."""
        arguments: str = super().extra_repr()  # type: ignore[no-untyped-call]
        arguments = arguments if self.unbiased else f"{arguments}, unbiased=False"
        arguments = arguments if self.activation is None else f"{arguments}, activation={self.activation!r}"
        return arguments if self.max_pool is None else f"{arguments}, max_pool={self.max_pool}"


def check_arguments(
    num_features: int,
    eps: float,
    momentum: float | None,
    activation: str | None = None,
    max_pool: int | None = None,
) -> None:
    """Raise ValueError if an argument of the layer is out of range."""
    if num_features < 1:
        raise ValueError(f"num_features must be at least 1, got {num_features}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1] or None, got {momentum}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
    if max_pool not in MAX_POOLS:
        raise ValueError(f"max_pool must be one of {', '.join(map(repr, MAX_POOLS))}, got {max_pool!r}")
