"""`python -m labml_bn.diagnose`, as a user runs it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from labml_bn.trained.weights import WEIGHTS, load_weights, save_weights
from tests.conftest import Run, runs


def test_healthy(command: Run, trained: Path, work: Path) -> None:
    done = command("diagnose", trained, "--json", "diagnosis.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"{trained}: MNIST, norm=batch_norm\n25 batches of 64 training images, 2000 test images\n\n"
    )
    assert "Healthy:" in done.stdout
    assert "Remedy" not in done.stdout
    table = done.stdout.splitlines()[1:]
    assert max(map(len, table)) <= 80
    assert [line.split()[0] for line in table[4:7]] == ["norm1", "norm2", "norm3"]
    assert done.stdout.endswith("\nall numbers: diagnosis.json\n")
    assert json.loads((work / "diagnosis.json").read_text())["healthy"] is True
    assert [path.name for path in work.iterdir()] == ["diagnosis.json"]


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "seed"), [("batch_norm", 1), ("torch", 2)])
def test_runs_are_healthy(command: Run, small: list[str], norm: str, seed: int) -> None:
    assert command("train", *small, "train_samples=3000", f"norm={norm}", f"seed={seed}").returncode == 0
    done = command("diagnose", "latest")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Healthy:" in done.stdout, done.stdout


def test_broken(command: Run, trained: Path, tmp_path: Path) -> None:
    """Running statistics as they were before the training: named, with the layer and the remedy. No failure."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    network = load_weights(run / WEIGHTS)
    network.model.get_submodule("norm2").reset_running_stats()  # type: ignore[operator]
    save_weights(run / WEIGHTS, network.model, network.settings)
    done = command("diagnose", run)
    assert (done.returncode, done.stderr) == (0, "")
    words = " ".join(done.stdout.split())
    assert "1. layer norm2: never updated: the running statistics are the initial 0 and 1" in words
    assert "Remedy: call these layers in training mode, or re-estimate the statistics: estimate_population(" in words
    assert done.stdout.endswith(
        "\nA run estimates them after its last epoch with the setting population_samples=20000.\n"
    )
    assert "Healthy" not in done.stdout


def test_a_run_that_diverged(command: Run, trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    network = load_weights(run / WEIGHTS)
    for parameter in network.model.parameters():
        parameter.data.fill_(torch.nan)
    save_weights(run / WEIGHTS, network.model, network.settings)
    done = command("diagnose", run)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1. layers norm1, norm2, norm3: NaN, infinite or negative values" in done.stdout


def test_checkpoints(command: Run, full_run: Path) -> None:
    for checkpoint in ("best", "last"):
        done = command("diagnose", full_run, "--checkpoint", checkpoint, "--batches", "5")
        assert (done.returncode, done.stderr) == (0, "")
        assert f", {checkpoint} checkpoint (after " in done.stdout
        assert "5 batches of 64 training images, 500 test images" in done.stdout


def test_without_normalization(command: Run, work: Path, data_path: Path) -> None:
    small = ["epochs=1", "train_samples=500", "valid_samples=100", "inner_iterations=1"]
    assert command("train", *small, "norm=none", f"data_path={data_path}").returncode == 0
    done = command("diagnose", "latest")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: norm=none has no statistics: there is nothing to diagnose\n"
    assert len(runs(work)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batches", "0"], "'0' is not a number of batches, at least 1"),
        (["--batches", "many"], "'many' is not a number of batches, at least 1"),
        (["--json", "diagnosis.yaml"], "the name must end in .json"),
        (["--json", "nowhere/diagnosis.json"], "the folder nowhere does not exist"),
        (["--checkpoint", "first"], "argument --checkpoint: invalid choice: 'first'"),
        (["--size", "3"], "unrecognized arguments: --size"),
    ],
)
def test_wrong_use(command: Run, trained: Path, work: Path, arguments: list[str], message: str) -> None:
    done = command("diagnose", trained, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(work.iterdir()) == []


def test_no_such_run(command: Run) -> None:
    done = command("diagnose", "latest")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: there are no runs in logs (python -m labml_bn.train makes one)\n"
