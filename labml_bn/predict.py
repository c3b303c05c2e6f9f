"""Predict which digits are in image files.

    python -m labml_bn.predict latest seven.png
    python -m labml_bn.predict RUN scans/*.jpg

The images may have any size, dark on light or light on dark. Prints the class of each file and its probability.
"""

from pathlib import Path

from labml_bn.cli import threads
from labml_bn.cli.command import Parser, run_command


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.predict", __doc__)
    parser.add_run_argument()
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files of one digit each")
    arguments = parser.parse_args()

    threads.let_sleep()
    from labml_bn.trained.prediction import predict
    from labml_bn.trained.weights import load_run

    _, trained = load_run(arguments.run, arguments.logs)
    for path, prediction in zip(arguments.images, predict(trained, arguments.images), strict=True):
        print(f"{path}: {prediction.name} ({prediction.probability:.2%})")


if __name__ == "__main__":
    run_command(main)
