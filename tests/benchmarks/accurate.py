"""The accuracy of configs/accurate.yaml, and of what else was tried: `python -m tests.benchmarks.accurate`.

    python -m tests.benchmarks.accurate                 5 seeds, trained on all training images: test accuracy and time
    python -m tests.benchmarks.accurate --choose        the candidates, trained without 10,000 held-out images
    python -m tests.benchmarks.accurate --at-once 4     four runs at a time, each with its share of the cores

Each run is printed as it finishes, and the means at the end. The candidates are compared by their loss on the held-out
images, which varies less between seeds than their accuracy. The test images choose nothing.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import UserError
from labml_bn.cli.text import duration
from labml_bn.data.download import ensure_files
from labml_bn.records.folder import run_folders
from labml_bn.records.record import read_run
from tests.benchmarks.command import positive
from tests.benchmarks.fast import interval
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
    parser.add_argument("--at-once", type=positive, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="the folder of the data sets")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings for all runs")
    given = parser.parse_intermixed_args()
    ensure_files("MNIST", given.data)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // given.at_once)))
    common = [f"data_path={given.data.resolve()}", *(["held_out=10000"] if given.choose else [])]
    with ThreadPoolExecutor(given.at_once) as pool:
        for candidate in CANDIDATES if given.choose else [[]]:
            settings = [*common, *candidate, *given.settings]
            print(" ".join(["accurate.yaml", *candidate]), flush=True)
            runs = list(pool.map(lambda seed, settings=settings: train(seed, settings), range(1, given.seeds + 1)))
            for name in runs[0]:
                values = [run[name] for run in runs]
                mean = interval(values) if name.startswith("accuracy") else f"{statistics.mean(values):.4f}"
                print(f"mean {name}: {mean}", flush=True)


def train(seed: int, settings: Sequence[str]) -> dict[str, float]:
    """Train accurate.yaml with a seed and print what it gives: the last loss and accuracy."""
    with tempfile.TemporaryDirectory() as logs:
        arguments = ["accurate", f"seed.seed={seed}", f"logs_path={logs}", *settings]
        command = [sys.executable, "-m", "labml_bn.train", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise UserError(f"seed {seed} failed: {done.stderr.strip()}")
        run = read_run(run_folders(Path(logs))[0])
        metrics = run.metrics()
    split = "held_out" if "loss.held_out" in metrics else "test"
    result = {f"{what}.{split}": float(metrics[f"{what}.{split}"].values[-1, 0]) for what in ("loss", "accuracy")}
    numbers = f"loss {result[f'loss.{split}']:.4f}, accuracy {result[f'accuracy.{split}']:.2%}"
    print(f"seed {seed}: {split} {numbers} in {duration(run.elapsed)}", flush=True)
    return result


if __name__ == "__main__":
    run_command(main)
