"""Batch renormalization against the formulas of its paper, written out in float64."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from labml_bn.norm import BatchNorm, Renormalization

EPS = 0.1
#: Relaxed from the first batch on.
AT_ONCE: dict[str, Any] = {"start": 0, "r_end": 0, "d_end": 0}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def renormalizing(affine: bool = True, **limits: Any) -> BatchNorm:
    """A layer whose running statistics are not those of the batches here."""
    torch.manual_seed(0)
    renorm = Renormalization(**{**AT_ONCE, **limits})
    layer = BatchNorm(3, EPS, affine=affine, renorm=renorm, dtype=torch.float64)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    layer.running_mean = torch.tensor([0.2, -3.0, 0.0], dtype=torch.float64)
    layer.running_var = torch.tensor([0.2, 1.0, 40.0], dtype=torch.float64)
    return layer


def formula(x: Tensor, layer: BatchNorm, r_max: float, d_max: float) -> tuple[Tensor, Tensor, Tensor]:
    """The paper's Algorithm 1, with its stop_gradient; returns (y, r, d)."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mean = x.mean((0, 2))
    deviation = torch.sqrt(EPS + (x - mean.view(1, -1, 1)).square().mean((0, 2)))
    running_deviation = torch.sqrt(layer.running_var + EPS)
    r = (deviation.detach() / running_deviation).clamp(1 / r_max, r_max)
    d = ((mean.detach() - layer.running_mean) / running_deviation).clamp(-d_max, d_max)
    x_hat = (x - mean.view(1, -1, 1)) / deviation.view(1, -1, 1) * r.view(1, -1, 1) + d.view(1, -1, 1)
    if not layer.affine:
        return x_hat, r, d
    return layer.weight.view(1, -1, 1) * x_hat + layer.bias.view(1, -1, 1), r, d


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("r_max", "d_max"), [(1.5, 0.5), (1e9, 1e9), (3.0, 0.0)])
def test_against_the_formula(r_max: float, d_max: float, affine: bool) -> None:
    """Output, first and second derivatives, for r and d between their limits and at them."""
    layer = renormalizing(affine, r_max=r_max, d_max=d_max)
    x, dy = random(5, 3, 4).requires_grad_(), random(5, 3, 4, seed=1)
    expected, r, d = formula(x, layer, r_max, d_max)
    if r_max == 1.5:
        assert (r == 1.5).any()
        assert (r == 1 / 1.5).any()
        assert (d.abs() == 0.5).any()
        assert (d.abs() < 0.5).any()
    y = layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)  # the limits are in float64 too
    results = []
    for output in (y, expected):
        first = torch.autograd.grad(output, [x, *layer.parameters()], dy, create_graph=True)
        results.append((first, torch.autograd.grad(first[0].tanh().sum(), x)))
    torch.testing.assert_close(*results)


def test_without_limits_training_is_inference() -> None:
    layer = renormalizing(r_max=1e9, d_max=1e9)
    inference = copy.deepcopy(layer).eval()
    x = random(5, 3, 4)
    torch.testing.assert_close(layer(x), inference(x))


def test_with_r_1_and_d_0_it_is_batch_normalization() -> None:
    layer = renormalizing(r_max=1.0, d_max=0.0)
    expected = BatchNorm(3, EPS, dtype=torch.float64)
    expected.load_state_dict(layer.state_dict())
    for batch in range(3):
        x = random(5, 3, 4, seed=batch)
        torch.testing.assert_close(layer(x), expected(x))
        torch.testing.assert_close(layer.state_dict(), expected.state_dict())


@pytest.mark.parametrize(
    ("step", "r_max", "d_max"),
    [
        (0, 1, 0),
        (5_000, 1, 0),
        (15_000, 1 + 2 * 10 / 35, 2.5),
        (25_000, 1 + 2 * 20 / 35, 5),
        (40_000, 3, 5),
        (10**9, 3, 5),
    ],
)
def test_schedule(step: int, r_max: float, d_max: float) -> None:
    """The defaults are the paper's; between the steps the limits are relaxed linearly."""
    limits = Renormalization().limits(torch.tensor(step))
    assert [limit.item() for limit in limits] == pytest.approx([r_max, d_max])


def test_the_schedule_counts_batches() -> None:
    layer = renormalizing(start=1, r_end=2, d_end=2)
    expected = BatchNorm(3, EPS, dtype=torch.float64)
    expected.load_state_dict(layer.state_dict())
    x = random(5, 3, 4)
    same = []
    for _ in range(3):
        same.append(torch.allclose(layer(x), expected(x)))
    assert same == [True, True, False]


def test_one_step_schedule_limits() -> None:
    """Without steps between start and end, the limits change at once."""
    renorm = Renormalization(start=2, r_end=2, d_end=2)
    assert [renorm.limits(torch.tensor(step))[0].item() for step in (1, 2, 3)] == [1, 3, 3]


def test_with_a_mask() -> None:
    layer, expected = renormalizing(), renormalizing()
    x, mask = random(5, 3, 4), torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    y = layer(x.where(mask.unsqueeze(1), torch.nan), mask)
    torch.testing.assert_close(y.movedim(1, -1)[mask], expected(x.movedim(1, -1)[mask]))
    torch.testing.assert_close(layer.state_dict(), expected.state_dict())


def test_with_ghost_batches() -> None:
    """Each ghost batch is corrected by the running statistics that those before it have updated."""
    layer, expected = renormalizing(), renormalizing()
    layer.ghost_batch_size = 3
    x = random(6, 3, 4)
    torch.testing.assert_close(layer(x), torch.cat([expected(part) for part in x.split(3)]))
    torch.testing.assert_close(layer.state_dict(), expected.state_dict())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # inside torch.func
@pytest.mark.parametrize("derivative", [torch.func.jacrev, torch.func.jacfwd])
def test_jacobians(derivative: Any) -> None:
    """r and d are constants in either mode."""
    layer, other = renormalizing(), renormalizing()
    x = random(3, 3, 1)
    expected = torch.autograd.functional.jacobian(lambda x: formula(x, other, 3.0, 5.0)[0], x)
    torch.testing.assert_close(derivative(layer)(x), expected)


def test_compiled() -> None:
    torch.compiler.reset()
    layer = renormalizing(start=1, r_end=3, d_end=2)
    expected = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True)
    for batch in range(4):
        x, dy = random(5, 3, 4, seed=batch), random(5, 3, 4, seed=-batch)
        steps = []
        for function, parameters in ((compiled, layer.parameters()), (expected, expected.parameters())):
            leaf = x.clone().requires_grad_()
            y = function(leaf)
            steps.append((y, torch.autograd.grad(y, [leaf, *parameters], dy)))
        torch.testing.assert_close(*steps)
    torch.testing.assert_close(layer.state_dict(), expected.state_dict())


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
def test_jit_trace() -> None:
    layer, x = renormalizing(), random(5, 3, 4)
    expected = copy.deepcopy(layer)
    traced = torch.jit.trace(layer, random(5, 3, 4, seed=1), check_trace=False)
    layer.load_state_dict(expected.state_dict())
    torch.testing.assert_close(traced(x), expected(x))
    torch.testing.assert_close(layer.state_dict(), expected.state_dict())


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"r_max": 0.5}, "r_max must be at least 1"),
        ({"r_max": float("nan")}, "r_max"),
        ({"r_max": float("inf")}, "r_max must be at least 1 and finite"),
        ({"d_max": float("inf")}, "d_max must be at least 0 and finite"),
        ({"d_max": -1.0}, "d_max must be at least 0"),
        ({"start": -1}, "start"),
        ({"start": 30_000}, "start must be in"),
    ],
    ids=str,
)
def test_bad_limits(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Renormalization(**limits)


@pytest.mark.parametrize("renorm", [True, 3.0, {"r_max": 3.0}, Renormalization])
def test_other_types(renorm: Any) -> None:
    with pytest.raises(TypeError, match="renorm must be a Renormalization or None"):
        BatchNorm(3, renorm=renorm)


def test_without_running_statistics() -> None:
    with pytest.raises(ValueError, match="requires running statistics"):
        BatchNorm(3, track_running_stats=False, renorm=Renormalization())


def test_repr_and_copy() -> None:
    layer = copy.deepcopy(BatchNorm(3, renorm=Renormalization(r_max=2.0)))
    assert "renorm=Renormalization(r_max=2.0, d_max=5.0" in repr(layer)
