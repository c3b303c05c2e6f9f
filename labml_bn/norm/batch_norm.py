r"""The batch-normalization layer.

**The problem.** While a network trains, each layer's inputs keep changing their distribution, because the layers
before it keep changing. Every layer has to follow, small learning rates and careful initialization are needed, and
saturating nonlinearities get stuck. Ioffe & Szegedy call this *internal covariate shift* (§1).

**The idea.** Normalize each activation to mean 0 and variance 1, and make that a part of the network, so that the
gradient knows of it (§2). Whitening all the activations of a layer jointly would be costly, so two simplifications
are made (§3): each channel is normalized by itself, and the statistics come from the mini-batch. Since normalizing
could take away what a layer is able to represent (a sigmoid kept in its linear part, say), each channel gets back a
scale $\gamma$ and a shift $\beta$, which are learned:

$$\hat x = \frac{x - \mu_B}{\sqrt{\sigma_B^2 + \epsilon}} \qquad y = \gamma \hat x + \beta$$

**In a convolutional layer** (§3.2) one channel's values share one mean, one variance, one $\gamma$ and one $\beta$,
over all positions of all images of the batch. A bias of the convolution before it would be taken away again with the
mean, and $\beta$ does its work, so such a convolution needs none.

**At inference** (§3.1, Algorithm 2) an output must not depend on the other inputs of its batch. Then the population's
mean and variance stand in. They are estimated here while training, as an exponential average over the mini-batches:

$$\text{running} \leftarrow (1 - \text{momentum}) \cdot \text{running} + \text{momentum} \cdot \text{batch}$$

The equations are computed in `labml_bn.norm.kernels.reference`, and the gradient is derived in
`labml_bn.norm.functional`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bn.norm.functional import batch_norm, normalize_by

#: The names that labml's annotated implementation has for the state.
ANNOTATED_NAMES = {"scale": "weight", "shift": "bias", "exp_mean": "running_mean", "exp_var": "running_var"}


class BatchNorm(_BatchNorm):
    r"""Batch normalization over dimension 1 of an input [batch, channels, *] (Ioffe & Szegedy 2015, Algorithms 1, 2).

    It takes inputs with any number of trailing dimensions, none included, in float32, float64, bfloat16 or float16,
    and gives an output of the same shape, dtype and memory format. Statistics are computed in float32 or wider. It is
    a `torch.nn.modules.batchnorm._BatchNorm`, with the same names for its state, and its `state_dict` can be exchanged
    with those of `torch.nn.BatchNorm1d`, `2d` and `3d`.

    Arguments:
        num_features: the number of channels, at least 1
        eps: $\epsilon$, added to the variance; positive
        momentum: the weight of the newest mini-batch in the running estimates, in [0, 1]; None takes the plain average
            over all mini-batches so far
        affine: whether to learn $\gamma$ (`weight`) and $\beta$ (`bias`)
        track_running_stats: whether to keep running estimates; without them, evaluation uses the batch's statistics
        device, dtype: of the parameters and running estimates
        bias: whether to learn $\beta$, where `affine`
        unbiased: whether `running_var` averages the unbiased estimate $\frac{m}{m-1}\sigma_B^2$, as in Algorithm 2 and
            PyTorch, or the biased $\sigma_B^2$ itself, as in ONNX and Keras

    State: `weight`, `bias` (parameters), `running_mean`, `running_var` (buffers), each [channels], and
    `num_batches_tracked`, a count.

    Raises ValueError for fewer than one channel, `eps` not positive, `momentum` outside [0, 1]; in the forward pass for
    fewer than two dimensions, another number of channels, and one value per channel where the batch's statistics are
    used (its variance would be 0, and all of the input would be lost). Raises TypeError for an input that is not of a
    floating dtype. An empty batch gives an empty output and leaves the estimates as they are.
    """

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
    ) -> None:
        check_arguments(num_features, eps, momentum)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:
            self.register_parameter("bias", None)
        self.unbiased = unbiased

    def forward(self, input: Tensor) -> Tensor:
        """Normalize `input` [batch, channels, *]; the output has its shape and dtype."""
        self._check_input_dim(input)
        if not self.training and self.running_mean is not None and self.running_var is not None:
            return normalize_by(input, self.running_mean, self.running_var, self.weight, self.bias, self.eps)

        values_per_channel = input.numel() // self.num_features
        if values_per_channel == 1:
            raise ValueError(
                f"expected more than one value per channel to take a variance of, got an input of shape "
                f"{tuple(input.shape)}: use a larger batch, or evaluate with model.eval()"
            )
        y, mean, var = batch_norm(input, self.weight, self.bias, self.eps)
        if self.training and self.track_running_stats:
            self._update_running_estimates(mean, var, values_per_channel)
        return y

    @torch.no_grad()
    def _update_running_estimates(self, mean: Tensor, var: Tensor, m: int) -> None:
        """Average the batch's statistics into the running ones (§3.1)."""
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if m == 0:
            return
        if self.unbiased:
            var = var * (m / (m - 1))
        for running, batch in ((self.running_mean, mean), (self.running_var, var)):
            momentum: float | Tensor = self.momentum or 0.0
            if self.momentum is None and self.num_batches_tracked is not None:
                momentum = 1 / self.num_batches_tracked.to(batch.dtype)
            running.copy_((1 - momentum) * running + momentum * batch)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected an input of shape [batch, channels, *], got {tuple(input.shape)}")
        if input.shape[1] != self.num_features:
            raise ValueError(
                f"expected {self.num_features} channels in dimension 1, got an input of shape {tuple(input.shape)}"
            )
        if not input.is_floating_point():
            raise TypeError(f"expected an input of a floating dtype, got {input.dtype}")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take also a state that was saved by the layer of labml's annotated implementation, under its own names."""
        for theirs, ours in ANNOTATED_NAMES.items():
            if prefix + theirs in state_dict:
                state_dict[prefix + ours] = state_dict.pop(prefix + theirs)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """The arguments, for the layer's line in a printed network."""
        arguments: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return arguments if self.unbiased else f"{arguments}, unbiased=False"


def check_arguments(num_features: int, eps: float, momentum: float | None) -> None:
    """Raise ValueError, saying what is wrong, where a layer cannot have these arguments."""
    if num_features < 1:
        raise ValueError(f"num_features must be at least 1, got {num_features}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1] or None, got {momentum}")
