"""What is printed: a table and a verdict within 80 columns."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labml_bn.norm import diagnose
from labml_bn.norm.diagnosis import Diagnosis


def diagnosed(names: list[str], *, loss: Any = None, scale: float = 1.0, evaluation: bool = False) -> Diagnosis:
    torch.manual_seed(0)
    model = nn.Sequential()
    for name in names:
        block: nn.Module = model
        *path, last = name.split(".")
        for part in path:
            if not hasattr(block, part):
                block.add_module(part, nn.Sequential())
            block = block.get_submodule(part)
        block.add_module(last, nn.BatchNorm1d(10))
    batches = [(torch.randn(64, 10) * scale + scale, torch.randint(10, (64,))) for _ in range(80)]
    model.train()
    for x, _ in batches:
        model(x)
    return diagnose(model, batches, evaluation=batches if evaluation else None, loss=loss)


def test_healthy() -> None:
    diagnosis = diagnosed(["norm1", "norm2"])
    assert diagnosis.healthy
    lines = str(diagnosis).splitlines()
    assert lines[1].split() == ["layer", "updates", "population", "a", "batch", "of", "all", "output"]
    assert re.fullmatch(r"norm1 +80 +0\.\d\d ×1\.\d\d +0\.\d\d ×1\.\d\d +0/10 +\d\.\d%", lines[2])
    assert "Healthy:" in str(diagnosis)
    assert "The output in evaluation (running statistics) changes by" in str(diagnosis)
    assert "Loss" not in str(diagnosis)


@pytest.mark.parametrize("loss", [None, F.cross_entropy])
@pytest.mark.parametrize("evaluation", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e15])
def test_within_80_columns(loss: Any, evaluation: bool, scale: float) -> None:
    names = ["norm", "backbone.stages.12.blocks.27.residual.downsample.normalization"]
    diagnosis = diagnosed(names, loss=loss, scale=scale, evaluation=evaluation)
    text = str(diagnosis)
    assert max(map(len, text.splitlines())) <= 80, text
    assert f"\n{names[1]}\n  " in text  # a line of its own, above its numbers
    text = " ".join(text.split())
    assert ("Loss on the training data" in text) == (loss is not None)
    assert ("Loss on the evaluation data" in text) == (loss is not None and evaluation)
    assert ("from train" in text) == evaluation


def test_a_name_that_is_longer_than_a_line() -> None:
    text = str(diagnosed(["a" * 50 + ".b" * 30]))
    assert re.search(r"^…a+(\.b){30}\n  ", text, flags=re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80, text


def test_a_broken_network() -> None:
    broken = nn.Sequential(*(nn.BatchNorm1d(10) for _ in range(6)))
    diagnosis = diagnose(broken, [torch.randn(64, 10) * 3 for _ in range(5)])
    words = " ".join(str(diagnosis).split())
    assert "1. layers 0, 1, 2 and 3 more: never updated: the running statistics are the initial 0 and 1" in words
    assert "Remedy: call these layers in training mode, or re-estimate" in words
    assert "Healthy" not in words


def test_a_single_layer() -> None:
    text = str(diagnose(nn.BatchNorm1d(3), [torch.randn(8, 3)]))
    assert "\n(network) " in text
    assert "1. the network: never updated" in text
