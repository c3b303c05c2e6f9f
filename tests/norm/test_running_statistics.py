"""The running statistics: averages in every dtype, and within the transforms of `torch.func`."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from labml_bn.norm import BatchNorm
from labml_bn.norm.running_statistics import update_running_statistics

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # inside torch.func

Function = Callable[[Tensor], Tensor]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cubes(layer: nn.Module) -> Function:
    return lambda x: (layer(x) ** 3).sum()


TRANSFORMS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "grad": lambda layer, x: grad(cubes(layer))(x),
    "vjp": lambda layer, x: vjp(layer, x)[1](x),
    "jvp": lambda layer, x: jvp(layer, (x,), (x,)),
    "jvp of jvp": lambda layer, x: jvp(lambda y: jvp(layer, (y,), (x,))[1], (x,), (x,)),
    "jacfwd": lambda layer, x: jacfwd(layer)(x),
    "jacrev": lambda layer, x: jacrev(layer)(x),
    "hessian": lambda layer, x: hessian(cubes(layer))(x),
    "three times jacfwd": lambda layer, x: jacfwd(jacfwd(jacfwd(cubes(layer))))(x),
    "jacrev of jacfwd of jacrev": lambda layer, x: jacrev(jacfwd(jacrev(cubes(layer))))(x),
    "grad of grad": lambda layer, x: grad(lambda y: grad(cubes(layer))(y).sum())(x),
    "of the parameters": lambda layer, x: grad(lambda p: functional_call(layer, p, (x,)).sum())(
        dict(layer.named_parameters())
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("momentum", [0.25, None])
def test_derivatives_do_not_change_them(name: str, momentum: float | None) -> None:
    """Within any derivatives, each forward pass counts the batch once, as without them."""
    layer = BatchNorm(3, momentum=momentum, dtype=torch.float64)
    expected = copy.deepcopy(layer)
    for batch in range(2):
        x = random(3, 3, seed=batch) + 5
        TRANSFORMS[name](layer, x)
        expected(x)
        torch.testing.assert_close(layer.state_dict(), expected.state_dict())
    assert all(buffer.is_leaf and not buffer.requires_grad for buffer in layer.buffers())


@pytest.mark.parametrize("momentum", [0.25, None])
def test_forward_mode_dual_numbers(momentum: float | None) -> None:
    """`forward_ad` gives the derivative, and the running statistics have none."""
    layer = BatchNorm(3, momentum=momentum, dtype=torch.float64)
    expected = copy.deepcopy(layer)
    x, tangent = random(4, 3), random(4, 3, seed=1)
    with torch.autograd.forward_ad.dual_level():
        y = torch.autograd.forward_ad.unpack_dual(layer(torch.autograd.forward_ad.make_dual(x, tangent)))
        assert layer.running_mean is not None
        assert torch.autograd.forward_ad.unpack_dual(layer.running_mean).tangent is None
    step = 1e-6
    difference = (expected(x + step * tangent) - copy.deepcopy(expected)(x - step * tangent)) / (2 * step)
    torch.testing.assert_close(y.tangent, difference, rtol=1e-6, atol=1e-8)
    layer.eval()
    torch.testing.assert_close(layer.state_dict(), after(x, momentum))


def after(x: Tensor, momentum: float | None) -> dict[str, Tensor]:
    """The state of a layer after one batch [batch, channels]."""
    share = 1.0 if momentum is None else momentum
    return {
        "weight": torch.ones(x.shape[1], dtype=x.dtype),
        "bias": torch.zeros(x.shape[1], dtype=x.dtype),
        "running_mean": share * x.mean(0),
        "running_var": (1 - share) + share * x.var(0),
        "num_batches_tracked": torch.tensor(1),
    }


@pytest.mark.parametrize("per_member", [grad, lambda f: lambda *a: grad(lambda *b: grad(f)(*b).sum())(*a)])
def test_derivatives_of_a_stack_of_layers(per_member: Callable[..., Any]) -> None:
    """`vmap` over derivatives: every layer's own running statistics, in place."""
    members = [BatchNorm(3, dtype=torch.float64) for _ in range(2)]
    expected = copy.deepcopy(members)
    parameters, buffers = torch.func.stack_module_state(members)

    def loss(x: Tensor, parameters: Any, buffers: Any) -> Tensor:
        cubed: Tensor = functional_call(members[0], (parameters, buffers), (x,)) ** 3
        return cubed.sum()

    x = random(2, 4, 3)
    dx = vmap(per_member(loss))(x, parameters, buffers)
    for index, layer in enumerate(expected):
        torch.testing.assert_close(dx[index], per_member(cubes(layer))(x[index]))
        layer.load_state_dict(after(x[index], 0.1))
        for name, buffer in layer.named_buffers():
            torch.testing.assert_close(buffers[name][index], buffer)


@pytest.mark.parametrize(
    "call",
    [lambda layer, x: vmap(layer)(x), lambda layer, x: vmap(grad(cubes(layer)))(x)],
    ids=["vmap", "vmap of grad"],
)
def test_several_batches_cannot_update_one_layer(call: Callable[[nn.Module, Tensor], object]) -> None:
    layer = BatchNorm(3, dtype=torch.float64)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=r"several batches .* cannot update the same running statistics: stack"):
        call(layer, random(2, 4, 3))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    call(layer.eval(), random(2, 4, 3))


def test_a_stack_of_layers_with_one_input() -> None:
    """The input is not batched by `vmap`, only the layers are."""
    members = [BatchNorm(3) for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(members)
    x = torch.randn(4, 3, 5)
    ys = vmap(lambda p, b: functional_call(members[0], (p, b), (x,)))(parameters, buffers)
    for index, layer in enumerate(members):
        torch.testing.assert_close(ys[index], layer(x))
        assert layer.running_var is not None
        torch.testing.assert_close(buffers["running_var"][index], layer.running_var)


@pytest.mark.parametrize("momentum", [0.1, 1 / 3, 1.0, None])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_running_statistics_are_rounded_once(dtype: torch.dtype, momentum: float | None) -> None:
    """They are at most half a unit in the last place off the float64 result."""
    torch.manual_seed(0)
    layer = BatchNorm(300, momentum=momentum, dtype=dtype)
    with torch.no_grad():
        for buffer in (layer.running_mean, layer.running_var):
            assert buffer is not None
            buffer.uniform_(0.5, 3)
    mean, var = torch.randn(300) * 3, torch.rand(300) * 5
    share = 1.0 if momentum is None else momentum
    before = [buffer.double() for buffer in (layer.running_mean, layer.running_var) if buffer is not None]
    update_running_statistics(layer, 8, mean, var)
    exact = [(1 - share) * b + share * a for b, a in zip(before, (mean.double(), var.double() * 8 / 7), strict=True)]
    for buffer, value in zip((layer.running_mean, layer.running_var), exact, strict=True):
        assert buffer is not None
        distance = (buffer.double() - value).abs()
        ulp = torch.nextafter(buffer.abs(), torch.tensor(torch.inf, dtype=dtype)).double() - buffer.abs().double()
        assert (distance <= 0.501 * ulp).all()


def test_wide_running_statistics_of_a_narrow_input() -> None:
    """Running statistics in float64 keep their precision, although the batch's are in float32."""
    layer = BatchNorm(1, momentum=0.5)
    layer.running_mean = torch.tensor([1 + 2.0**-40], dtype=torch.float64)
    layer(torch.tensor([[0.0], [2.0]]))
    assert layer.running_mean.item() == 1 + 2.0**-41


def test_gradients_are_not_recorded() -> None:
    """Also if the moments are functions that autograd has recorded."""
    layer = BatchNorm(2)
    mean, var = torch.ones(2, requires_grad=True) * 2, torch.ones(2, requires_grad=True) * 3
    update_running_statistics(layer, 4, mean, var)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any(buffer.requires_grad for buffer in layer.buffers())
