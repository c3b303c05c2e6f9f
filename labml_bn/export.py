"""Write the network of a finished run for other programs, its normalizations folded away.

    python -m labml_bn.export latest digits.onnx    for ONNX runtimes (needs the extra `export`)
    python -m labml_bn.export RUN digits.pt2        a torch.export program, for torch.export.load

What was written is read back and run on the test images; only when it gives what PyTorch gives does the file appear.
"""

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labml_bn.command import Parser, run_command
from labml_bn.errors import UserError
from labml_bn.files import check_writable, replacing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from labml_bn.mnist import Batches

    #: Takes images [n, 1, 28, 28] and gives logits [n, classes], both float32.
    Program = Callable[["npt.NDArray[np.float32]"], "npt.NDArray[np.float32]"]

#: How far the exported network's logits may be from PyTorch's, relative to the largest.
TOLERANCE = 1e-4


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.export", __doc__)
    parser.add_run_argument()
    parser.add_argument("file", type=Path, metavar="FILE", help="where to write it, ending in .onnx or .pt2")
    parser.add_data_argument()
    arguments = parser.parse_args()
    path: Path = arguments.file
    writers = {".onnx": _write_onnx, ".pt2": _write_program}
    check_writable(path, tuple(writers))

    from labml_bn import fold
    from labml_bn.mnist import PIXELS
    from labml_bn.weights import load_run

    _, c = load_run(arguments.run, arguments.logs, arguments.data, **{"device.use_cuda": False})
    model = c.model.float()
    try:
        with replacing(path) as part:
            with warnings.catch_warnings():  # the exporters warn of their own insides
                warnings.simplefilter("ignore")
                program = writers[path.suffix.lower()](fold(model), part)
            images, farthest = _compare(program, model, c.valid_digits.batches(c.valid_batch_size))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    mean, std = PIXELS[c.dataset]
    print(f"{path}: on {images} test images the same classes as PyTorch, logits within {farthest:.1e}")
    print(f"input: images [batch, 1, 28, 28], float32, each pixel as (pixel / 255 - {mean}) / {std}; output: logits")


def _write_onnx(network: "nn.Module", path: Path) -> "Program":
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise UserError(f"ONNX needs the package {error.name}: pip install 'labml-bn[export]'") from error
    import torch

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


def _write_program(network: "nn.Module", path: Path) -> "Program":
    import torch

    # By way of memory: torch.export.save ends the whole process where it meets a full disk.
    content = io.BytesIO()
    torch.export.save(torch.export.export(network, **_any_batch()), content)
    path.write_bytes(content.getvalue())
    module = torch.export.load(path).module()
    return lambda images: module(torch.from_numpy(images)).detach().numpy()


def _any_batch() -> dict[str, Any]:
    """What both exporters trace the network with: an example, and that its batch may be of any size."""
    import torch

    return {"args": (torch.zeros(2, 1, 28, 28),), "dynamic_shapes": ({0: torch.export.Dim("batch", min=1)},)}


def _compare(program: "Program", model: "nn.Module", batches: "Batches") -> tuple[int, float]:
    """How many images were compared, and the farthest that a logit was off. Raises UserError where it is too far."""
    import torch

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
            f"the exported network differs from PyTorch's, by {farthest:.1e} in a logit, or gives what is no number: "
            "nothing was written"
        )
    return count, farthest


if __name__ == "__main__":
    run_command(main)
