"""Losses and changes of the output, added up over batches of different sizes."""

import math

import pytest
import torch
from torch.nn import functional as F

from labml_bn.norm.diagnosis.outcomes import Outcomes


def test_loss() -> None:
    """The mean over the samples, however they are split."""
    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(10, 3, generator=generator), torch.arange(10) % 3
    outcomes = Outcomes(F.cross_entropy)
    for part, labels in zip(output.split([6, 4]), target.split([6, 4]), strict=True):
        outcomes.add("running", part, part, labels, len(part))
    assert outcomes["running"] == pytest.approx(F.cross_entropy(output, target).item(), rel=1e-6)
    assert math.isnan(outcomes["population"])


def test_change_of_the_output() -> None:
    """The root mean square of the change over that of the output, over all tensors in it."""
    outcomes = Outcomes(None)
    reference = {"a": torch.tensor([3.0, 4.0]), "b": [torch.tensor([12.0]), torch.tensor([7])]}
    changed = {"a": torch.tensor([3.0, 4.5]), "b": [torch.tensor([13.2]), torch.tensor([9])]}
    outcomes.add("batch", changed, reference, None, 2)
    assert outcomes["batch"] == pytest.approx(1.3 / 13)  # sqrt(0.5² + 1.2²) of sqrt(3² + 4² + 12²)
    outcomes.add("running", reference, reference, None, 2)
    assert outcomes["running"] == 0
    assert math.isnan(outcomes["population"])
    outcomes.add("of zeros", torch.ones(1), torch.zeros(1), None, 1)
    assert outcomes["of zeros"] == math.inf


def test_a_loss_that_is_a_number() -> None:
    outcomes = Outcomes(lambda output, target: (output - target).mean().item())
    outcomes.add("one", torch.tensor([3.0]), None, torch.tensor([1.0]), 1)
    assert outcomes["one"] == 2


def test_a_loss_for_each_sample_is_refused() -> None:
    outcomes = Outcomes(lambda output, target: (output - target).square())
    with pytest.raises(ValueError, match=r"expected a loss of one number, the mean over the batch, got \(4, 2\)"):
        outcomes.add("running", torch.zeros(4, 2), None, torch.zeros(4, 2), 4)
