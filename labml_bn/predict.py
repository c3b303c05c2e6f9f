"""Predict which digits are in image files.

    python -m labml_bn.predict latest seven.png
    python -m labml_bn.predict RUN scans/*.jpg --save seen    write each image as the network saw it to seen/*.png

The images may have any size, dark on light or light on dark, in uneven light. Prints the three likeliest classes of
each file with their probabilities, and says if an image is unlike the training images: farther from the nearest of them
than 99 % of the training images are from each other, in the features that the network computes.
"""

from pathlib import Path

from labml_bn.cli import threads
from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import UserError
from labml_bn.cli.output import report
from labml_bn.cli.text import printable


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.predict", __doc__)
    parser.add_run_argument()
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files of one digit each")
    parser.add_argument("--checkpoint", choices=("best", "last"), help="use a checkpoint, also of an unfinished run")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="save the images as the network saw them, 28 x 28")
    parser.add_data_argument()
    arguments = parser.parse_args()

    threads.let_sleep()
    import torch

    from labml_bn.data.digit_image import names_in, read_digit, save_digit
    from labml_bn.trained.prediction import predict
    from labml_bn.trained.weights import load_run

    files = names_in(arguments.save, arguments.images) if arguments.save else []
    source, trained = load_run(arguments.run, arguments.logs, arguments.data, arguments.checkpoint)
    digits = {}
    for number, path in enumerate(arguments.images):
        try:
            digits[number] = read_digit(path)
        except UserError as error:
            if len(arguments.images) == 1:
                raise
            report(f"{error.label}: {error}")
    predictions = predict(trained, torch.stack([*digits.values()])) if digits else []
    report(f"{source}: {trained.dataset}, norm={trained.settings['norm']}")
    for number, prediction in zip(digits, predictions, strict=True):
        if arguments.save:
            save_digit(files[number], digits[number])
        path = arguments.images[number]
        likeliest = ", ".join(f"{name} ({probability:.2%})" for name, probability in prediction.likeliest)
        distances = f"distance {prediction.distance:.3f}, limit {prediction.limit:.3f}"
        unlike = f"; unlike the training images: {distances}" if prediction.unlike else ""
        print(printable(f"{path}: {likeliest}{unlike}"))
    unread = len(arguments.images) - len(digits)
    if unread:
        raise UserError(f"{unread} of {len(arguments.images)} images could not be used")


if __name__ == "__main__":
    run_command(main)
