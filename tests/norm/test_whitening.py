"""Whitening against plain arithmetic in float64: its output, its gradient and its running statistics."""

import numpy as np
import pytest
import torch
from torch import Tensor

from labml_bn.norm.whitening import Whitening, inverse_square_root

EPS = 1e-5


def correlated(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random values [batch, channels, *] with correlations between the channels, and a mean."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    mixing = torch.eye(shape[1]) + torch.rand(shape[1], shape[1], generator=generator, dtype=torch.float64)
    return (torch.einsum("dc,bc...->bd...", mixing, x) + 3).to(dtype)


def by_numpy(x: Tensor, groups: int) -> np.ndarray:
    """The whitened values [channels, values], by NumPy, each group on its own."""
    whitened = []
    for group in x.double().transpose(0, 1).flatten(1).chunk(groups):
        cov = np.cov(group.numpy(), bias=True) + EPS * np.eye(len(group))
        eigenvalues, vectors = np.linalg.eigh(cov)
        centered = group.numpy() - group.numpy().mean(1, keepdims=True)
        whitened.append(vectors @ np.diag(eigenvalues**-0.5) @ vectors.T @ centered)
    return np.concatenate(whitened)


@pytest.mark.parametrize("iterations", [None, 30], ids=["eigendecomposition", "Newton"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", [(50, 6), (8, 6, 5), (4, 6, 5, 3)], ids=str)
def test_the_output(shape: tuple[int, ...], groups: int, iterations: int | None) -> None:
    x = correlated(*shape)
    layer = Whitening(6, groups, iterations).double()
    y = layer(x)
    assert y.shape == x.shape
    flat = y.detach().transpose(0, 1).flatten(1)
    np.testing.assert_allclose(flat.numpy(), by_numpy(x, groups), atol=1e-6)
    covariances = [np.cov(group.numpy(), bias=True) for group in flat.chunk(groups)]
    np.testing.assert_allclose(covariances, [np.eye(6 // groups)] * groups, atol=1e-3)


@pytest.mark.parametrize("iterations", [None, 20], ids=["eigendecomposition", "Newton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrower_dtypes(dtype: torch.dtype, iterations: int | None) -> None:
    x = correlated(200, 4, dtype=dtype)
    y = Whitening(4, iterations=iterations)(x)
    assert y.dtype == dtype
    atol = 1e-4 if dtype == torch.float32 else 2e-2
    np.testing.assert_allclose(y.detach().double().T.numpy(), by_numpy(x, 1), atol=atol)


@pytest.mark.parametrize("iterations", [None, 5], ids=["eigendecomposition", "Newton"])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_gradient_of_the_whole_calculation(groups: int, iterations: int | None) -> None:
    """By differences of the output, so also by those of the mean and of the matrix."""
    x = correlated(9, 4, 2).requires_grad_()
    layer = Whitening(4, groups, iterations).double()
    assert torch.autograd.gradcheck(layer, (x,))
    layer(x).square().sum().backward()
    assert layer.weight is not None
    assert layer.weight.grad is not None


def test_few_iterations_whiten_less() -> None:
    x = correlated(500, 8)
    distances = []
    for iterations in (1, 5, 10, 40):
        y = Whitening(8, iterations=iterations).double()(x).detach()
        distances.append(float(torch.linalg.norm(torch.cov(y.T, correction=0) - torch.eye(8))))
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 1
    assert distances[-1] < 1e-2


def test_newtons_iterations_are_stable() -> None:
    """Rounding errors do not grow after the iterations have converged, as those of the one-matrix form do."""
    cov = torch.cov(correlated(500, 8, dtype=torch.float32).T)
    converged = inverse_square_root(cov, 30)
    torch.testing.assert_close(inverse_square_root(cov, 300), converged)
    torch.testing.assert_close(converged, inverse_square_root(cov))


def test_equal_eigenvalues_have_a_gradient() -> None:
    """Eigenvectors have none there. The derivative of the inverse square root at I is -1/2."""
    matrix = torch.eye(5, dtype=torch.float64, requires_grad=True)
    weights = correlated(5, 5)
    (inverse_square_root(matrix) * weights).sum().backward()
    assert matrix.grad is not None
    torch.testing.assert_close(matrix.grad, -(weights + weights.T) / 4)


@pytest.mark.parametrize("iterations", [None, 5], ids=["eigendecomposition", "Newton"])
def test_constant_and_repeated_channels_stay_finite(iterations: int | None) -> None:
    x = correlated(20, 4, dtype=torch.float32)
    x[:, 1], x[:, 3] = 1e3, x[:, 2]
    x.requires_grad_()
    y = Whitening(4, iterations=iterations)(x)
    (y * correlated(20, 4, seed=1, dtype=torch.float32)).sum().backward()
    assert x.grad is not None
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_evaluation_uses_running_statistics() -> None:
    layer = Whitening(4, groups=2, momentum=0.25).double()
    batches = [correlated(30, 4, 2, seed=seed) for seed in range(3)]
    mean, cov = torch.zeros(4), torch.eye(4)
    for x in batches:
        layer(x)
        flat = x.transpose(0, 1).flatten(1)
        mean, cov = 0.75 * mean + 0.25 * flat.mean(1), 0.75 * cov + 0.25 * torch.cov(flat)
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_cov, torch.stack([cov[:2, :2], cov[2:, 2:]]))
    layer.eval()
    x = batches[0]
    torch.testing.assert_close(layer(x)[:5], layer(x[:5]))
    roots = [torch.linalg.inv(torch.linalg.cholesky(each + EPS * torch.eye(2))) for each in (cov[:2, :2], cov[2:, 2:])]
    y = layer(x).detach() - layer(mean.view(1, 4, 1)).detach()
    for number, root in enumerate(roots):  # any two roots differ by a rotation, which keeps lengths
        part = slice(2 * number, 2 * number + 2)
        by_cholesky = torch.einsum("dc,bcp->bdp", root, x[:, part] - mean[part].view(1, 2, 1))
        torch.testing.assert_close(y[:, part].norm(dim=1), by_cholesky.norm(dim=1))


def test_scale_and_shift() -> None:
    x, layer = correlated(30, 4), Whitening(4).double()
    plain = layer(x)
    with torch.no_grad():
        assert layer.weight is not None
        assert layer.bias is not None
        layer.weight.copy_(torch.tensor([1, 2, 3, 4]))
        layer.bias.fill_(5)
    torch.testing.assert_close(layer(x), plain * torch.tensor([1, 2, 3, 4]) + 5)
    torch.testing.assert_close(Whitening(4, affine=False).double()(x), plain)


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="divisor of num_features, got 3 for 4"):
        Whitening(4, groups=3)
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        Whitening(4, iterations=0)
    with pytest.raises(ValueError, match="eps must be positive"):
        Whitening(4, eps=0)
    with pytest.raises(ValueError, match=r"expected 4 channels in dimension 1, got \(2, 5\)"):
        Whitening(4)(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="more than one value per channel"):
        Whitening(4)(torch.zeros(1, 4))
    assert repr(Whitening(4, 2, 5)) == "Whitening(4, groups=2, iterations=5, eps=1e-05, momentum=0.1, affine=True)"
