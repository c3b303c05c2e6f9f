"""Say why the network of a run does worse in evaluation than in training, as far as its batch normalization goes.

    python -m labml_bn.diagnose latest                      a table of the layers, the causes found, and the remedies
    python -m labml_bn.diagnose RUN --checkpoint best       the checkpoint with the best accuracy
    python -m labml_bn.diagnose RUN --batches 200           from 200 batches of training images, not 25
    python -m labml_bn.diagnose RUN --json diagnosis.json   all numbers, also as JSON

The exit status is 0 if the network could be diagnosed, healthy or not. Nothing of the run is changed.
"""

import argparse
from pathlib import Path

from labml_bn.cli import threads
from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.files import check_writable
from labml_bn.cli.text import printable


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.diagnose", __doc__)
    parser.add_run_argument()
    parser.add_argument(
        "--batches", type=_count, default=25, metavar="N", help="how many batches of training images (default: 25)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE, ending in .json")
    parser.add_argument("--checkpoint", choices=("best", "last"), help="use a checkpoint, also of an unfinished run")
    parser.add_data_argument()
    arguments = parser.parse_args()
    if arguments.json:
        check_writable(arguments.json, (".json",))

    threads.let_sleep()
    from labml_bn.trained.diagnosing import diagnose_run, save_json
    from labml_bn.trained.weights import load_run

    source, trained = load_run(arguments.run, arguments.logs, arguments.data, arguments.checkpoint)
    diagnosis, images = diagnose_run(trained, arguments.batches)
    print(printable(f"{source}: {trained.dataset}, norm={trained.settings['norm']}"))
    print(f"{images}\n\n{diagnosis}")
    if any("estimate_population" in finding.remedy for finding in diagnosis.findings):
        print("\nA run estimates them after its last epoch with the setting population_samples=20000.")
    if arguments.json:
        save_json(diagnosis, arguments.json)
        print(printable(f"all numbers: {arguments.json}"))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of batches, at least 1")
    return int(text)


if __name__ == "__main__":
    run_command(main)
