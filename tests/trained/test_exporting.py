"""The exported network is compared with PyTorch's before its file is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labml_bn.cli.errors import UserError
from labml_bn.trained.exporting import check_same, export
from labml_bn.trained.weights import WEIGHTS, load_weights


def test_a_wrong_program_is_refused(trained: Path) -> None:
    """The comparison before the file is written can fail."""
    c = load_weights(trained / WEIGHTS)
    batches = c.test_set().batches(500)

    def right(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = c.model(torch.from_numpy(images)).detach().numpy()
        return logits

    assert check_same(right, c.model, batches)[0] == 2000
    wrongs: list[Any] = [lambda x: right(x) * 1.001, lambda x: right(x)[:, ::-1].copy(), lambda x: right(x) * np.nan]
    wrongs.append(lambda x: np.full((len(x), 10), np.nan, np.float32))
    for wrong in wrongs:
        with pytest.raises(UserError, match="differs from PyTorch's"):
            check_same(wrong, c.model, batches)


def test_without_the_extra(trained: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"ONNX needs the package onnxruntime: pip install 'labml-bn\[export\]'"):
        export(load_weights(trained / WEIGHTS), work / "x.onnx")
    assert list(work.iterdir()) == []
