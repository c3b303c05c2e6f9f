"""The accuracy of configs/accurate.yaml, and of what else was tried: `python -m tests.benchmarks.accurate`.

    python -m tests.benchmarks.accurate                 5 seeds, trained on all training images: test accuracy and time
    python -m tests.benchmarks.accurate --choose        the candidates, trained without 10,000 held-out images

Each is a sweep over the seeds; a line is printed for each run, and the means at the end. The candidates are compared by
their loss on the held-out images, which varies less between seeds than their accuracy. The test images choose nothing.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from labml_bn import load_runs
from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import UserError
from labml_bn.records.comparison.estimates import estimate
from tests.benchmarks.command import positive
from tests.benchmarks.measuring import ROOT

#: What was tried instead: the settings that differ from the config file.
CANDIDATES = [
    [],
    ["population_samples=0"],
    ["optimizer.weight_decay=0"],
    ["optimizer.weight_decay=1"],
    ["optimizer.weight_decay=0", "epochs=36"],
    ["optimizer.learning_rate=0.005", "train_batch_size=64", "epochs=20"],
    ["augmentation.shift=3", "augmentation.rotation=15", "augmentation.scale=0.15"],
    ["augmentation.elastic=0", "augmentation.rotation=15"],
    ["layers=32C3-32C3-32C3-P2-64C3-64C3-64C3-128N"],
    ["layers=32C5-64C5-96C5-128C5-160C5"],
    ["layers=32C3-64C3-64C5S2-96C3-128C3-128C3"],
]


def main() -> None:
    """The command."""
    parser = Parser("tests.benchmarks.accurate", __doc__)
    parser.add_argument("--choose", action="store_true", help="train the candidates, with held-out images (hours)")
    parser.add_argument("--seeds", type=positive, default=5, metavar="N", help="seeds 1 to N (default: 5)")
    parser.add_argument("--jobs", type=positive, metavar="N", help="runs at a time (default: as for a sweep)")
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="the folder of the data sets")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings for all runs")
    given = parser.parse_intermixed_args()
    common = [f"data_path={given.data.resolve()}", *(["held_out=10000"] if given.choose else [])]
    common += [f"seed.seed=1..{given.seeds}", *([f"--jobs={given.jobs}"] if given.jobs else [])]
    for candidate in CANDIDATES if given.choose else [[]]:
        print(" ".join(["accurate.yaml", *candidate]), flush=True)
        for name, values in train([*common, *candidate, *given.settings]).items():
            found, form = estimate(values), ".3%" if name.startswith("accuracy") else ".4f"
            interval = f"95 % interval {found.low:{form}} to {found.high:{form}}"
            print(f"mean {name}: {found.mean:{form}} ({interval})", flush=True)


def train(arguments: Sequence[str]) -> dict[str, list[float]]:
    """Train accurate.yaml with each seed. Returns their last losses and accuracies, on the held-out images if any."""
    with tempfile.TemporaryDirectory() as logs:
        command = [sys.executable, "-m", "labml_bn.train", "accurate", f"logs_path={logs}", *arguments]
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            raise UserError("a run has failed")
        runs = load_runs(logs)
        split = "held_out" if runs[0].settings["held_out"] else "test"
        return {name: runs.column(name) for name in (f"loss.{split}", f"accuracy.{split}")}


if __name__ == "__main__":
    run_command(main)
