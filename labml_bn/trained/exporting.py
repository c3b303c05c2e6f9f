"""Writing a trained network for other programs, and checking that it computes the same there."""

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from labml_bn.cli.errors import UserError, os_errors_as
from labml_bn.cli.files import replacing
from labml_bn.data.mnist import Batches
from labml_bn.norm import fold
from labml_bn.trained.weights import Trained

#: Takes images [n, 1, 28, 28], returns logits [n, classes], both float32.
Program = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]

#: How much the exported network's logits may differ from PyTorch's, relative to the largest logit.
TOLERANCE = 1e-4


def export(trained: Trained, path: Path) -> tuple[int, float]:
    """Fold the normalizations of a network, and write it to `path` as ONNX (.onnx) or a torch.export program (.pt2).

    The file is read back and compared with PyTorch on the test images; it appears only if both agree. Returns the
    number of images and the largest difference of a logit. Raises UserError if the file cannot be written, if a package
    is missing, and if the networks differ.
    """
    model = trained.model.float()
    images = trained.test_set()
    write = _WRITERS[path.suffix.lower()]
    with os_errors_as(f"cannot write {path}"), replacing(path) as part:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporters warn about their own internals
            program = write(fold(model), part)
        return check_same(program, model, images.batches(trained.batch_size))


def _write_onnx(network: nn.Module, path: Path) -> Program:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise UserError(f"ONNX needs the package {error.name}: pip install 'labml-bn[export]'") from error

    written = torch.onnx.export(
        network,
        **_any_batch(),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert written is not None
    written.save(path)
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": images})[0]


def _write_program(network: nn.Module, path: Path) -> Program:
    # Written to memory first: on a full disk, torch.export.save aborts the process.
    content = io.BytesIO()
    torch.export.save(torch.export.export(network, **_any_batch()), content)
    path.write_bytes(content.getvalue())
    module = torch.export.load(path).module()
    return lambda images: module(torch.from_numpy(images)).detach().numpy()


_WRITERS = {".onnx": _write_onnx, ".pt2": _write_program}


def _any_batch() -> dict[str, Any]:
    """What both exporters trace the network with: an example input, whose batch size is dynamic."""
    return {"args": (torch.zeros(2, 1, 28, 28),), "dynamic_shapes": ({0: torch.export.Dim("batch", min=1)},)}


def check_same(program: Program, model: nn.Module, batches: Batches) -> tuple[int, float]:
    """The number of images compared, and the largest difference of a logit. Raises UserError if it is too large."""
    count, farthest, largest, same = 0, 0.0, 0.0, True
    with torch.no_grad():
        for images, _ in batches:
            images = images.float()
            expected, found = model(images), torch.from_numpy(program(images.numpy()))
            count += len(images)
            farthest = max(farthest, (found - expected).abs().max().item())
            largest = max(largest, expected.abs().max().item())
            same = same and torch.equal(found.argmax(dim=1), expected.argmax(dim=1)) and bool(found.isfinite().all())
    if not same or not farthest <= TOLERANCE * largest:
        raise UserError(
            f"the exported network outputs NaN or infinity, or differs from PyTorch's by {farthest:.1e} in a logit: "
            "nothing was written"
        )
    return count, farthest
