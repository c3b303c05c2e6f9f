"""The learning rate of each step, against PyTorch's scheduler."""

import warnings

import pytest
import torch

from labml_bn.training.learning_rate import one_cycle, set_learning_rate


def optimizer_at(rate: float, **options: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], **options}], rate)


def pytorchs(steps: int, warmup: float) -> list[float]:
    optimizer = optimizer_at(0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer takes no step here
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.02, total_steps=steps, pct_start=warmup, cycle_momentum=False
        )
        rates = [optimizer.param_groups[0]["lr"]]
        for _ in range(steps - 1):
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 64, 938, 9380])
def test_equals_pytorchs_scheduler(steps: int, warmup: float) -> None:
    rates = [one_cycle(step, steps, 0.02, warmup) for step in range(steps)]
    assert rates == pytest.approx(pytorchs(steps, warmup), rel=1e-12, abs=0)


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0.1), (2, 0.5), (1, 0.0)])
def test_a_warmup_of_a_single_step_or_none(steps: int, warmup: float) -> None:
    """PyTorch divides by 0 if the highest rate is that of the first step."""
    rates = [one_cycle(step, steps, 0.02, warmup) for step in range(steps)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == (0.02 if steps > 1 else pytest.approx(8e-8))
    assert rates[-1] == pytest.approx(8e-8)


def test_the_groups_of_an_optimizer() -> None:
    optimizer = optimizer_at(0.5, max_lr=0.02, warmup=0.5)
    set_learning_rate(optimizer, 4, 10)
    assert optimizer.param_groups[0]["lr"] == 0.02
    constant = optimizer_at(0.5)
    set_learning_rate(constant, 4, 10)
    assert constant.param_groups[0]["lr"] == 0.5
