"""The optimizers are PyTorch's: the same numbers, and the same state."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from labml_bn.training import optimizers


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (optimizers.Adam, torch.optim.Adam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
        (optimizers.SGD, torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_the_same_to_the_last_bit(
    ours: type[torch.optim.Optimizer], theirs: type[torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    def trained(optimizer_class: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
        optimizer = optimizer_class(model.parameters(), 0.05, fused=True, **options)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(8, 5)).square().sum().backward()
            optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
        return model, optimizer

    (our_model, our_optimizer), (their_model, their_optimizer) = trained(ours), trained(theirs)
    assert all(map(torch.equal, our_model.parameters(), their_model.parameters()))
    assert str(our_optimizer.state_dict()) == str(their_optimizer.state_dict())
    assert isinstance(our_optimizer, theirs)


def test_torch_compile_is_not_imported() -> None:
    """Neither by the optimizer nor by the layer."""
    code = """
import sys, torch
from labml_bn.models import ConvNet
from labml_bn.training import optimizers
model = ConvNet()
optimizer = optimizers.Adam(model.parameters(), fused=True)
optimizer.zero_grad()
model(torch.randn(4, 1, 28, 28)).sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
