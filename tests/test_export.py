"""`python -m labml_bn.export`: what it writes gives what PyTorch gives, in the programs it is written for."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from labml_bn import export
from labml_bn.errors import UserError
from labml_bn.weights import WEIGHTS, load_weights
from tests.conftest import Run


@pytest.mark.slow
def test_onnx(command: Run, trained: Path, work: Path) -> None:
    done = command("export", trained, "digits.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert "on 2000 test images the same classes as PyTorch" in done.stdout
    assert [path.name for path in work.iterdir()] == ["digits.onnx"]
    onnx.checker.check_model(str(work / "digits.onnx"), full_check=True)
    operators = {node.op_type for node in onnx.load(str(work / "digits.onnx")).graph.node}
    assert "BatchNormalization" not in operators

    c = load_weights(trained / WEIGHTS)
    session = onnxruntime.InferenceSession(str(work / "digits.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 7, 100):
        images, _ = c.valid_digits.batch(slice(0, batch))
        (logits,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(logits, c.model(images).detach().numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_program(command: Run, trained: Path, work: Path) -> None:
    done = command("export", trained, "digits.pt2")
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in work.iterdir()] == ["digits.pt2"]
    c = load_weights(trained / WEIGHTS)
    module = torch.export.load(work / "digits.pt2").module()
    for batch in (1, 7):
        images, _ = c.valid_digits.batch(slice(0, batch))
        torch.testing.assert_close(module(images), c.model(images), rtol=1e-4, atol=1e-4)


def test_a_wrong_program_is_noticed(trained: Path) -> None:
    """The comparison before anything is said can fail."""
    c = load_weights(trained / WEIGHTS)
    batches = c.valid_digits.batches(500)

    def right(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = c.model(torch.from_numpy(images)).detach().numpy()
        return logits

    assert export._compare(right, c.model, batches)[0] == 2000
    wrongs: list[Any] = [lambda x: right(x) * 1.001, lambda x: right(x)[:, ::-1].copy(), lambda x: right(x) * np.nan]
    wrongs.append(lambda x: np.full((len(x), 10), np.nan, np.float32))
    for wrong in wrongs:
        with pytest.raises(UserError, match="differs from PyTorch's"):
            export._compare(wrong, c.model, batches)


@pytest.mark.parametrize(
    ("file", "message"),
    [("digits.h5", "the name must end in .onnx or .pt2"), ("nowhere/digits.onnx", "the folder nowhere does not exist")],
)
def test_wrong_use(command: Run, trained: Path, work: Path, file: str, message: str) -> None:
    done = command("export", trained, file)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(work.iterdir()) == []


def test_without_the_extra(trained: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"ONNX needs the package onnxruntime: pip install 'labml-bn\[export\]'"):
        export._write_onnx(torch.nn.Linear(1, 1), work / "x.onnx")
