"""`python -m labml_bn.export`: the exported network computes what PyTorch computes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from labml_bn.trained.weights import WEIGHTS, load_weights
from tests.conftest import Run


@pytest.mark.slow
def test_onnx(command: Run, trained: Path, work: Path) -> None:
    done = command("export", trained, "digits.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{trained}: MNIST, norm=batch_norm\n")
    assert "on 2000 test images the same classes as PyTorch" in done.stdout
    assert [path.name for path in work.iterdir()] == ["digits.onnx"]
    onnx.checker.check_model(str(work / "digits.onnx"), full_check=True)
    operators = {node.op_type for node in onnx.load(str(work / "digits.onnx")).graph.node}
    assert "BatchNormalization" not in operators

    c = load_weights(trained / WEIGHTS)
    session = onnxruntime.InferenceSession(str(work / "digits.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 7, 100):
        images, _ = c.test_set().batch(slice(0, batch))
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
        images, _ = c.test_set().batch(slice(0, batch))
        torch.testing.assert_close(module(images), c.model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_checkpoint(command: Run, full_run: Path, work: Path) -> None:
    done = command("export", full_run, "digits.pt2", "--checkpoint", "last")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"{full_run}, last checkpoint (after 3,000 training images): MNIST, norm=batch_norm\n"
    )


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
