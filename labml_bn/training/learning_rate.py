"""The learning rate of each step: pure functions of its number, so a resumed run needs no state of them."""

import math

import torch


def one_cycle(step: int, steps: int, highest: float, warmup: float) -> float:
    """The learning rate of step number `step` (from 0) of `steps`, after Smith & Topin 2017.

    It rises from `highest` / 25 to `highest` during the fraction `warmup` of the steps, then falls to almost 0, each
    along half a cosine. Without a warm-up it only falls. The values are those of `torch.optim.lr_scheduler.OneCycleLR`.
    """
    lowest_before = highest / 25
    lowest_after = lowest_before / 1e4
    peak = warmup * steps - 1  # the step with the highest rate, not always a whole number
    if step <= peak and peak > 0:
        return _half_cosine(lowest_before, highest, step / peak)
    return _half_cosine(highest, lowest_after, (step - peak) / (steps - 1 - peak))


def _half_cosine(start: float, end: float, fraction: float) -> float:
    """From `start` to `end`, with slope 0 at both."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * fraction))


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    """Set the learning rate for step `step` (from 0) of `steps`. A constant one stays as it is.

    Parameter groups with one cycle have `max_lr` and `warmup`.
    """
    for group in optimizer.param_groups:
        if "max_lr" in group:
            group["lr"] = one_cycle(step, steps, group["max_lr"], group["warmup"])
