"""The closed-form gradients against automatic differentiation of plain operations, in float64."""

import pytest
import torch
from torch import Tensor

from labml_bn.norm.functional import BatchStatistics, Moments, batch_norm, normalize_with

EPS = 1e-2


def plain_normalize(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    shape = (1, -1, *[1] * (x.dim() - 2))
    x_hat = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + EPS)
    return weight.view(shape) * x_hat + bias.view(shape)


def plain_batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dims = [0, *range(2, x.dim())]
    mean = x.mean(dims)
    var = (x - mean.view(1, -1, *[1] * (x.dim() - 2))).square().mean(dims)
    return plain_normalize(x, mean, var, weight, bias), mean, var


def random(*shape: int, seed: int) -> Tensor:
    """Values in float64 with the mean 1 and the standard deviation 2."""
    return 1 + 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradients(y: Tensor, dy: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, inputs, dy)


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 5), (2, 3, 2, 4)], ids=str)
def test_batch_norm(shape: tuple[int, ...]) -> None:
    x, dy = random(*shape, seed=0).requires_grad_(), random(*shape, seed=1)
    weight, bias = random(shape[1], seed=2).requires_grad_(), random(shape[1], seed=3).requires_grad_()
    y, count, mean, var = batch_norm(x, weight, bias, EPS)
    expected, expected_mean, expected_var = plain_batch_norm(x, weight, bias)
    assert count == x.numel() // shape[1]
    assert not mean.requires_grad
    assert not var.requires_grad
    torch.testing.assert_close((y, mean, var), (expected, expected_mean.detach(), expected_var.detach()))
    torch.testing.assert_close(gradients(y, dy, x, weight, bias), gradients(expected, dy, x, weight, bias))


@pytest.mark.parametrize("shape", [(4, 3), (1, 3), (2, 3, 2, 4)], ids=str)
def test_normalize_by(shape: tuple[int, ...]) -> None:
    x, dy = random(*shape, seed=0).requires_grad_(), random(*shape, seed=1)
    mean, var = random(3, seed=4).requires_grad_(), random(3, seed=5).square().requires_grad_()
    weight, bias = random(3, seed=2).requires_grad_(), random(3, seed=3).requires_grad_()
    y = normalize_with(x, mean, var, weight, bias, EPS)
    expected = plain_normalize(x, mean, var, weight, bias)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, dy, x, weight, bias), gradients(expected, dy, x, weight, bias))
    assert list(torch.autograd.grad(y.sum(), [mean, var], allow_unused=True)) == [None, None]


def test_normalize_by_uses_the_statistics_of_the_forward_pass() -> None:
    x, dy = random(4, 3, seed=0).requires_grad_(), random(4, 3, seed=1)
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    y = normalize_with(x, mean, var, weight, None, 0.0)
    mean.fill_(7.0)
    var.fill_(7.0)
    torch.testing.assert_close(gradients(y, dy, x, weight), (dy, (dy * x.detach()).sum(0)))


class TwoProcesses(BatchStatistics):
    """The batch of two processes. The other process is simulated by its moments and gradient sums."""

    def __init__(self, moments: Moments, sums: tuple[Tensor, Tensor]) -> None:
        self.other_moments = moments
        self.other_sums = sums

    def moments(self, x: Tensor, weights: Tensor | None = None) -> Moments:
        """Combine the moments as in Chan, Golub & LeVeque 1979."""
        (n_a, mean_a, var_a), (n_b, mean_b, var_b) = super().moments(x), self.other_moments
        n, difference = n_a + n_b, mean_b - mean_a
        var = (n_a * var_a + n_b * var_b + difference.square() * n_a * n_b / n) / n
        return n, mean_a + difference * (n_b / n), var

    def gradient_sums(self, sum_dy: Tensor, sum_dy_xhat: Tensor) -> tuple[Tensor, Tensor]:
        other_dy, other_dy_xhat = self.other_sums
        return sum_dy + other_dy, sum_dy_xhat + other_dy_xhat


@pytest.mark.parametrize("sizes", [(5, 2), (6, 1), (7, 0)], ids=str)
def test_two_processes(sizes: tuple[int, int]) -> None:
    """Together, two processes compute what one process computes from the concatenated batch."""
    x, dy = random(7, 3, 2, seed=0).requires_grad_(), random(7, 3, 2, seed=1)
    weight, bias = random(3, seed=2).requires_grad_(), random(3, seed=3).requires_grad_()
    expected, expected_mean, expected_var = plain_batch_norm(x, weight, bias)
    expected_dx, *expected_parameters = gradients(expected, dy, x, weight, bias)
    x_hat = ((expected - bias.view(1, -1, 1)) / weight.view(1, -1, 1)).detach()
    moments = [BatchStatistics().moments(shard) for shard in x.detach().split(sizes)]
    sums = [(d.sum((0, 2)), (d * h).sum((0, 2))) for d, h in zip(dy.split(sizes), x_hat.split(sizes), strict=True)]

    outputs, input_gradients = [], []
    parameter_gradients = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for rank in (0, 1):
        shard = x.detach().split(sizes)[rank].requires_grad_()
        y, count, mean, var = batch_norm(
            shard, weight, bias, EPS, statistics=TwoProcesses(moments[1 - rank], sums[1 - rank])
        )
        assert count == 7 * 2
        torch.testing.assert_close((mean, var), (expected_mean.detach(), expected_var.detach()))
        dx, *parameters = gradients(y, dy.split(sizes)[rank], shard, weight, bias)
        outputs.append(y)
        input_gradients.append(dx)
        parameter_gradients = [a + b for a, b in zip(parameter_gradients, parameters, strict=True)]
    torch.testing.assert_close(torch.cat(outputs), expected)
    torch.testing.assert_close(torch.cat(input_gradients), expected_dx)
    torch.testing.assert_close(parameter_gradients, expected_parameters)


def test_double_backward_with_two_processes() -> None:
    """First and second derivatives against finite differences, with the other process constant."""
    zero = torch.zeros(2, dtype=torch.float64)
    batch = TwoProcesses(BatchStatistics().moments(random(3, 2, seed=0)), (zero, zero))

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return batch_norm(x, weight, bias, EPS, statistics=batch)[0]

    inputs = [tensor.requires_grad_() for tensor in (random(4, 2, seed=1), random(2, seed=2), random(2, seed=3))]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)  # of the gradient as computed for double backward
    y, dy = function(*inputs), random(4, 2, seed=4)
    twice = torch.autograd.grad(y, inputs, dy, create_graph=True)
    torch.testing.assert_close([gradient.detach() for gradient in twice], list(gradients(y, dy, *inputs)))


def test_double_backward_of_an_empty_batch() -> None:
    x = torch.empty(0, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    y = batch_norm(x, weight, None, EPS)[0]
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(dx.sum(), weight), (torch.zeros_like(weight),))
