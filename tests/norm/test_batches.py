"""What a network is called with: a tensor or keyword arguments, alone or first in a tuple; the first samples of it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labml_bn.norm.batches import call, inputs, number_of_samples


class Named(nn.Module):
    def forward(self, *, x: Tensor, scale: float) -> Tensor:
        return scale * x


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, "target"), lambda x: [x]])
@pytest.mark.parametrize("samples", [None, 1, 4, 5, 7, 100])
def test_samples(samples: int | None, wrap: Any) -> None:
    """Both forms are cut to the same samples; what is not a tensor is passed on."""
    parts = torch.arange(7.0)[:, None].split(4)
    plain = list(inputs([wrap(x) for x in parts], samples))
    named = list(inputs([wrap({"scale": 2.0, "x": x}) for x in parts], samples))
    torch.testing.assert_close(torch.cat(plain)[:, 0], torch.arange(7.0)[:samples])
    for x, arguments in zip(plain, named, strict=True):
        torch.testing.assert_close(call(Named(), arguments), 2 * call(nn.Identity(), x))
        assert number_of_samples(x) == number_of_samples(arguments) == len(x)


def test_no_more_batches_are_read_than_needed() -> None:
    read = iter(torch.arange(6.0)[:, None].split(2))
    assert sum(map(len, inputs(read, 3))) == 3
    assert len(list(read)) == 1


def test_a_mapping_without_tensors() -> None:
    assert number_of_samples({"scale": 2.0}) == 0
