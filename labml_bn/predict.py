"""Tell which digits are in image files.

    python -m labml_bn.predict latest seven.png
    python -m labml_bn.predict RUN scans/*.jpg

Any size, dark on light or light on dark. Prints for each file the class and its probability.
"""

from pathlib import Path

from labml_bn.command import Parser, run_command
from labml_bn.errors import UserError


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.predict", __doc__)
    parser.add_run_argument()
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files of one digit each")
    arguments = parser.parse_args()

    import torch

    from labml_bn.images import read_digit
    from labml_bn.mnist import CLASSES, Digits
    from labml_bn.weights import load_run

    _, c = load_run(arguments.run, arguments.logs)
    pixels = torch.stack([read_digit(path) for path in arguments.images]).to(c.device)
    digits = Digits.of(c.dataset, pixels, torch.zeros(len(pixels), device=c.device), getattr(torch, c.dtype))
    with torch.no_grad():
        images, _ = digits.batch(slice(None))
        probabilities, classes = c.model(images).softmax(dim=1).max(dim=1)
    if not probabilities.isfinite().all():
        raise UserError("the network gives no numbers: its training has diverged")
    for path, number, probability in zip(arguments.images, classes.tolist(), probabilities.tolist(), strict=True):
        print(f"{path}: {CLASSES[c.dataset][number]} ({probability:.2%})")


if __name__ == "__main__":
    run_command(main)
