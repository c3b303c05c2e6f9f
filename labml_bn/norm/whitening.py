r"""Whitening: what batch normalization simplifies (§2, §3).

Batch normalization gives every channel the variance 1, and leaves the channels correlated. Whitening removes the
correlations too. With the covariance matrix $\Sigma$ of the channels,

$$\Sigma = \frac{1}{m} \sum_i (x_i - \mu)(x_i - \mu)^T + \epsilon I \qquad y_i = \Sigma^{-1/2} (x_i - \mu)$$

and then $\gamma$ and $\beta$ for each channel. Of all matrices that whiten, the symmetric one is used (ZCA): its output
is the one nearest to the input. Others rotate the channels, and a small change of the batch can rotate them to
something else (Huang et al. 2018, *Decorrelated Batch Normalization*, arXiv 1804.08450).

The matrix is computed in one of two ways.

**By eigendecomposition** (Huang et al. 2018). With $\Sigma = U \Lambda U^T$, it is $U \Lambda^{-1/2} U^T$. The
derivative of the eigenvectors does not exist if two eigenvalues are equal. That of the matrix does, and needs none of
theirs (the theorem of Daleckii and Krein): a change $d\Sigma$ changes it by

$$U \left( K \circ (U^T \, d\Sigma \, U) \right) U^T \qquad
  K_{ij} = \frac{\lambda_i^{-1/2} - \lambda_j^{-1/2}}{\lambda_i - \lambda_j}
         = \frac{-1}{\sqrt{\lambda_i \lambda_j} \left( \sqrt{\lambda_i} + \sqrt{\lambda_j} \right)}$$

where the last form is also right for equal eigenvalues.

**By Newton's iterations** (Huang et al. 2019, *Iterative Normalization*, arXiv 1904.03441), which only multiply
matrices. From $P_0 = I$, with the trace $t$ of $\Sigma$, which brings the eigenvalues to where the iterations converge,

$$P_k = \tfrac{1}{2} \left( 3 P_{k-1} - P_{k-1}^3 \, \Sigma / t \right) \qquad \Sigma^{-1/2} \approx P_T / \sqrt t$$

Computed like this, rounding errors grow after the iterations have converged. So they are computed together with
$Q_k = P_k \, \Sigma / t$, which in exact arithmetic gives the same $P_k$, and is stable (Higham 2008, *Functions of
Matrices*, chapter 6):

$$R_k = \tfrac{1}{2} \left( 3 I - P_{k-1} Q_{k-1} \right) \qquad P_k = R_k P_{k-1} \qquad Q_k = Q_{k-1} R_k$$

Few iterations whiten the directions of large variance, and leave small those that are nearly constant.

With C channels and m values of each, batch normalization takes of the order of C m operations, the covariance matrix
C² m, and its inverse square root C³. In G groups of channels that are whitened separately, it is C² m / G and C³ / G².
Unless m is greater than the number of channels in a group, the matrix has no inverse without $\epsilon$.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from labml_bn.norm.batch_norm import check_arguments
from labml_bn.norm.kernels.reference import widen


class Whitening(nn.Module):
    r"""Whitening of the channels of an input [batch, channels, *], in training by the statistics of the batch.

    In evaluation it uses running statistics, which are averages over the batches: of the mean, and of the covariance
    matrix, of which the inverse square root is computed as for a batch. (The papers average the root.)

    Arguments:
        num_features: the number of channels
        groups: the number of groups of channels that are whitened separately; a divisor of `num_features`
        iterations: the number of Newton's iterations, or None for the eigendecomposition
        eps: $\epsilon$, added to the variances; positive
        momentum: the weight of the current batch in the running statistics, in [0, 1]
        affine: whether to learn $\gamma$ (`weight`) and $\beta$ (`bias`)

    State: `weight`, `bias` (parameters) and `running_mean`, each [channels], and `running_cov`, [groups, channels /
    groups, channels / groups], without $\epsilon$.

    Raises ValueError if an argument is out of range. The forward pass raises ValueError if the input has the wrong
    number of channels, or in training only one value per channel. The gradient cannot be differentiated again with the
    eigendecomposition.
    """

    running_mean: Tensor
    running_cov: Tensor

    def __init__(
        self,
        num_features: int,
        groups: int = 1,
        iterations: int | None = None,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
    ) -> None:
        super().__init__()
        check_arguments(num_features, eps, momentum)
        if groups < 1 or num_features % groups != 0:
            raise ValueError(f"groups must be a divisor of num_features, got {groups} for {num_features}")
        if iterations is not None and iterations < 1:
            raise ValueError(f"iterations must be at least 1, or None, got {iterations}")
        self.num_features, self.groups, self.iterations = num_features, groups, iterations
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        size = num_features // groups
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_cov", torch.eye(size).repeat(groups, 1, 1))

    def forward(self, input: Tensor) -> Tensor:
        """Whiten `input` [batch, channels, *]. The output has its shape and dtype."""
        if input.dim() < 2 or input.shape[1] != self.num_features:
            raise ValueError(f"expected {self.num_features} channels in dimension 1, got {tuple(input.shape)}")
        channels_first = widen(input).transpose(0, 1)
        x = channels_first.reshape(self.groups, -1, input.numel() // self.num_features)  # [groups, channels, values]
        mean, cov = self._training_statistics(x) if self.training else self._running_statistics()
        cov = cov + self.eps * torch.eye(x.shape[1], dtype=cov.dtype, device=cov.device)
        y = inverse_square_root(cov, self.iterations) @ (x - mean)
        y = y.reshape(channels_first.shape).transpose(0, 1)
        if self.weight is not None and self.bias is not None:
            shape = (-1, *[1] * (input.dim() - 2))
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    def _training_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean [groups, channels, 1] and the covariance matrix of x, which also update the running ones."""
        values = x.shape[2]
        if values <= 1:
            raise ValueError("expected more than one value per channel to compute a covariance: use a larger batch")
        mean = x.mean(2, keepdim=True)
        centered = x - mean
        cov = centered @ centered.mT / values
        with torch.no_grad():
            unbiased = cov * (values / (values - 1))
            self.running_mean.lerp_(mean.flatten().to(self.running_mean.dtype), self.momentum)
            self.running_cov.lerp_(unbiased.to(self.running_cov.dtype), self.momentum)
        return mean, cov

    def _running_statistics(self) -> tuple[Tensor, Tensor]:
        return self.running_mean.view(self.groups, -1, 1), self.running_cov

    def extra_repr(self) -> str:
        """The arguments, as printed in the network's `repr`."""
        return (
            f"{self.num_features}, groups={self.groups}, iterations={self.iterations}, eps={self.eps}, "
            f"momentum={self.momentum}, affine={self.weight is not None}"
        )


def inverse_square_root(matrix: Tensor, iterations: int | None = None) -> Tensor:
    """The inverse square root of symmetric positive definite matrices [*, n, n], which gradients flow through.

    By so many of Newton's iterations, or exactly, by the eigendecomposition. Both equations are above.
    """
    if iterations is None:
        root: Tensor = _InverseSquareRoot.apply(matrix)
        return root
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    p, q = identity, matrix / trace
    for _ in range(iterations):
        r = (3 * identity - p @ q) / 2
        p, q = r @ p, q @ r
    return p / trace.sqrt()


class _InverseSquareRoot(torch.autograd.Function):
    """The inverse square root by the eigendecomposition, with the gradient that equal eigenvalues do not disturb."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        eigenvalues, vectors = torch.linalg.eigh(matrix)
        # Rounding can make the smallest eigenvalues negative, if they are much smaller than the largest.
        smallest = torch.finfo(matrix.dtype).eps * eigenvalues[..., -1:]
        roots = eigenvalues.clamp(min=smallest).sqrt()
        ctx.save_for_backward(roots, vectors)
        inverse: Tensor = (vectors / roots.unsqueeze(-2)) @ vectors.mT
        return inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        row, column = roots.unsqueeze(-1), roots.unsqueeze(-2)
        k = -1 / (row * column * (row + column))
        symmetric = (gradient + gradient.mT) / 2
        of_matrix: Tensor = vectors @ (k * (vectors.mT @ symmetric @ vectors)) @ vectors.mT
        return of_matrix
