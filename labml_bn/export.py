"""Export the network of a run, with its normalizations folded into the preceding layers.

    python -m labml_bn.export latest digits.onnx    for ONNX runtimes (needs the extra `export`)
    python -m labml_bn.export RUN digits.pt2        a torch.export program, for torch.export.load
    python -m labml_bn.export RUN digits.onnx --checkpoint best    the checkpoint with the best accuracy

The exported network is run on the test images; the file is written only if the result is the same as PyTorch's.
"""

from pathlib import Path

from labml_bn.cli import threads
from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.files import check_writable
from labml_bn.cli.text import printable


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.export", __doc__)
    parser.add_run_argument()
    parser.add_argument("file", type=Path, metavar="FILE", help="the file to write, ending in .onnx or .pt2")
    parser.add_argument("--checkpoint", choices=("best", "last"), help="use a checkpoint, also of an unfinished run")
    parser.add_data_argument()
    arguments = parser.parse_args()
    path: Path = arguments.file
    check_writable(path, (".onnx", ".pt2"))

    threads.let_sleep()
    from labml_bn.data.mnist import PIXELS
    from labml_bn.trained.exporting import export
    from labml_bn.trained.weights import load_run

    on_cpu = {"device.use_cuda": False}
    source, trained = load_run(arguments.run, arguments.logs, arguments.data, arguments.checkpoint, **on_cpu)
    print(printable(f"{source}: {trained.dataset}, norm={trained.settings['norm']}"), flush=True)
    images, farthest = export(trained, path)
    mean, std = PIXELS[trained.dataset]
    print(f"{path}: on {images} test images the same classes as PyTorch, logits within {farthest:.1e}")
    print(f"input: images [batch, 1, 28, 28], float32, each pixel as (pixel / 255 - {mean}) / {std}; output: logits")


if __name__ == "__main__":
    run_command(main)
