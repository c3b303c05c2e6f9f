"""Evaluation mode and forward pre-hooks end with their block, also after an exception."""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labml_bn.norm import BatchNorm
from labml_bn.norm.hooks import evaluating, forward_pre_hook, uncompiled


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", [lambda: None, interrupt])
def test_evaluating_restores_each_mode(end: Callable[[], None]) -> None:
    frozen = nn.BatchNorm1d(2).eval()
    model = nn.Sequential(nn.Dropout(), nn.Sequential(frozen, nn.ReLU()))
    modes = [module.training for module in model.modules()]
    assert modes == [True, True, True, False, True]
    with contextlib.suppress(KeyboardInterrupt), evaluating(model):
        assert not any(module.training for module in model.modules())
        end()
    assert [module.training for module in model.modules()] == modes


def test_evaluating_does_not_call_train() -> None:
    class Strict(nn.Linear):
        def train(self, mode: bool = True) -> Any:
            raise AssertionError

    layer = Strict(2, 2)
    with evaluating(layer):
        assert not layer.training
    assert layer.training


def test_forward_pre_hook_receives_layer_input_and_mask() -> None:
    first, second = nn.Linear(2, 3), BatchNorm(3)
    seen: list[tuple[Any, ...]] = []
    x, mask = torch.zeros(4, 2), torch.ones(4, dtype=torch.bool)
    with forward_pre_hook([first, second], lambda layer, x, mask: seen.append((layer, tuple(x.shape), mask))):
        second(input=first(x))
        second(first(x), mask)
        second(first(x), mask=mask)
    second(first(x))
    expected: list[tuple[Any, ...]] = []
    for given in (None, mask, mask):
        expected += [(first, (4, 2), None), (second, (4, 3), given)]
    assert len(seen) == len(expected)
    for one, other in zip(seen, expected, strict=True):
        assert one[:2] == other[:2]
        assert one[2] is other[2]


def test_forward_pre_hook_does_not_change_the_input() -> None:
    layer, x = nn.Identity(), torch.ones(2)

    def double(layer: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
        return 2 * x

    with forward_pre_hook([layer], double):
        assert torch.equal(layer(x), x)


def test_forward_pre_hook_is_removed_after_an_exception() -> None:
    layer = nn.Linear(2, 2)
    with contextlib.suppress(KeyboardInterrupt), forward_pre_hook([layer], lambda *_: interrupt()):
        layer(torch.zeros(1, 2))
        pytest.fail("the hook was not called")
    assert not layer._forward_pre_hooks
    layer(torch.zeros(1, 2))


def test_uncompiled() -> None:
    torch.compiler.reset()
    compiled = []

    @torch.compile(fullgraph=True, backend="eager")
    def double(x: Tensor) -> Tensor:
        compiled.append(torch.compiler.is_compiling())
        return 2 * x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(KeyboardInterrupt), uncompiled():
            double(torch.ones(2))
            interrupt()
        double(torch.ones(2))
    assert compiled == [False, True]
    torch.compiler.reset()
