"""`python -m labml_bn.evaluate`, as a user runs it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image
from torch import nn

from labml_bn.models import ConvNet
from labml_bn.trained.weights import WEIGHTS, load_weights
from tests.conftest import Run, another, metrics, runs


def report(output: str) -> tuple[float, int, np.ndarray]:
    """The loss, the number of right answers and the confusion matrix that were printed."""
    (loss,) = re.search(r"test loss (\S+)", output).groups()  # type: ignore[union-attr]
    (correct,) = re.search(r"\((\d+) of 2000\)", output).groups()  # type: ignore[union-attr]
    matrix = [[int(word) for word in line.split()[1:]] for line in output.splitlines() if re.match(r"\d +\d+ ", line)]
    return float(loss), int(correct), np.array(matrix)


def expected(run: Path, kind: str) -> tuple[float, int, np.ndarray]:
    """The same, computed with PyTorch's layers in float64 over all images at once."""
    c = load_weights(run / WEIGHTS)
    images, labels = c.test_set().batch(slice(None))
    model = ConvNet("torch").double().eval()
    model.load_state_dict(c.model.state_dict())
    if kind == "population":  # PyTorch uses the biased variance of a batch; the population's is unbiased
        train, _ = c.train_set().batch(slice(None, 1500))
        for name in ("norm1", "norm2", "norm3"):
            layer = getattr(model, name)
            seen: list[torch.Tensor] = []
            handle = layer.register_forward_pre_hook(lambda layer, inputs, seen=seen: seen.append(inputs[0]))
            model(train.double())
            handle.remove()
            dims = [0, *range(2, seen[0].dim())]
            layer.running_mean.copy_(seen[0].mean(dims))
            layer.running_var.copy_(seen[0].var(dims))
    if kind == "batch":
        for name in ("norm1", "norm2", "norm3"):
            getattr(model, name).train()
    with torch.no_grad():
        logits = torch.cat([model(part.double()) for part in images.split(c.settings["valid_batch_size"])])
    predicted = logits.argmax(dim=1)
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (labels.numpy(), predicted.numpy()), 1)
    return nn.functional.cross_entropy(logits, labels).item(), int((predicted == labels).sum()), matrix


@pytest.mark.parametrize(
    ("option", "kind"), [("running", "running"), ("population:1500", "population"), ("batch", "batch")]
)
def test_report(command: Run, trained: Path, option: str, kind: str) -> None:
    with torch.no_grad():
        loss, correct, matrix = expected(trained, kind)
    done = command("evaluate", trained, "--statistics", option)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert f"{kind} statistics" in done.stdout
    printed = report(done.stdout)
    assert printed[0] == pytest.approx(loss, abs=1e-4)
    assert abs(printed[1] - correct) <= 1  # float32 may tip one image
    assert np.abs(printed[2] - matrix).sum() <= 2
    assert np.trace(printed[2]) == printed[1]
    assert printed[2].sum() == 2000


def test_all_of_the_population(command: Run, trained: Path) -> None:
    done = command("evaluate", trained, "--statistics", "population")
    assert done.returncode == 0
    assert report(done.stdout)[1] > 1800


def test_names_of_runs(command: Run, trained: Path, work: Path) -> None:
    logs = trained.parents[1]
    for name in ("latest", trained.name, trained.name[:8]):
        done = command("evaluate", name, "--logs", logs)
        assert done.returncode == 0, done.stderr
        assert str(trained) in done.stdout


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_figure(command: Run, trained: Path, work: Path, ending: str) -> None:
    done = command("evaluate", trained, "--figure", f"mistakes.{ending}")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in work.iterdir()] == [f"mistakes.{ending}"]
    content = (work / f"mistakes.{ending}").read_bytes()
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])
    if ending == "png":
        assert Image.open(work / "mistakes.png").size[0] > 300


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--statistics", "mean"], 2, "'mean' is not running, population[:N] or batch"),
        (["--statistics", "population:0"], 2, "population:N needs a number of images, at least 2, got '0'"),
        (["--statistics", "population:x"], 2, "population:N needs a number of images, at least 2, got 'x'"),
        (["--statistics", "population:9999"], 2, "population:9999 is more than the run's 6000 training images"),
        (["--statistics", "batch:3"], 2, "'batch:3' is not running, population[:N] or batch"),
        (["--figure", "mistakes.bmp"], 2, "the name must end in .png or .svg or .pdf"),
        (["--figure", "nowhere/mistakes.png"], 2, "the folder nowhere does not exist"),
        (["--checkpoint", "first"], 2, "argument --checkpoint: invalid choice: 'first'"),
        (["--size", "3"], 2, "unrecognized arguments: --size"),
    ],
)
def test_wrong_use(command: Run, trained: Path, work: Path, arguments: list[str], status: int, message: str) -> None:
    done = command("evaluate", trained, *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(work.iterdir()) == []


def test_another_data_folder(command: Run, trained: Path, data_path: Path, work: Path) -> None:
    (work / "digits").symlink_to(data_path)
    done = command("evaluate", trained, "--data", "digits")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_test_batch_of_one_image(command: Run, work: Path, data_path: Path) -> None:
    small = ["epochs=1", "train_samples=500", "valid_samples=101", "valid_batch_size=100", "inner_iterations=1"]
    assert command("train", *small, f"data_path={data_path}").returncode == 0
    done = command("evaluate", "latest", "--statistics", "batch")
    assert done.returncode == 1
    assert "valid_batch_size=100 makes a batch of one image" in done.stderr


def test_no_such_run(command: Run, work: Path) -> None:
    done = command("evaluate", "latest")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: there are no runs in logs (python -m labml_bn.train makes one)\n"


def test_an_unfinished_run(command: Run, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / WEIGHTS).unlink()
    done = command("evaluate", run)
    assert done.returncode == 1
    assert "has no weights" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def unfinished(full_run: Path, work: Path) -> Path:
    """A finished run, and a newer one that was killed in its third epoch. Its best checkpoint is of the second."""
    another(full_run, work / "logs", "aaaa0000", "08:00:00")
    run = another(full_run, work / "logs", "bbbb0000", "09:00:00")
    (run / WEIGHTS).unlink()
    (run / "run_log.jsonl").unlink()
    newest, before, *_ = sorted((run / "checkpoints").iterdir(), reverse=True)
    state = torch.load(newest, weights_only=True)
    torch.save({**state, "best": {"name": before.name, "accuracy": 1.0}}, newest)
    return run


def test_latest(command: Run, unfinished: Path) -> None:
    """The newest run that can be used. If that is not the newest, a line says why."""
    done = command("evaluate", "latest")
    assert done.stdout.startswith("logs/batch_norm/aaaa0000: MNIST")
    passed = "latest is logs/batch_norm/aaaa0000; newer, but passed over: logs/batch_norm/bbbb0000 has no weights: "
    hint = "(--checkpoint last uses its last checkpoint)"
    assert done.stderr == f"{passed}the run has not finished {hint}\n"
    with FileLock(unfinished / "run.lock"):
        assert command("evaluate", "latest").stderr == f"{passed}the run is still running {hint}\n"
    for path in (unfinished.parent / "aaaa0000" / WEIGHTS, unfinished.parent / "aaaa0000" / "checkpoints"):
        path.rename(path.with_name(f"no_{path.name}"))
    done = command("evaluate", "latest")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no run in logs can be used; the newest: logs/batch_norm/bbbb0000 has no")


@pytest.mark.parametrize(("checkpoint", "step"), [("best", 2000), ("last", 3000)])
def test_checkpoints_of_a_run_that_is_running(command: Run, unfinished: Path, checkpoint: str, step: int) -> None:
    """Their accuracy is the logged one."""
    with FileLock(unfinished / "run.lock"):
        done = command("evaluate", "latest", "--checkpoint", checkpoint)
    assert (done.returncode, done.stderr) == (0, "")
    source = f"logs/batch_norm/bbbb0000, {checkpoint} checkpoint (after {step:,} training images): MNIST"
    assert done.stdout.startswith(source)
    (logged,) = (value for seen, (value,) in metrics(unfinished)["accuracy.test"] if seen == step)
    assert f"accuracy {logged:.2%} (" in done.stdout


def test_a_damaged_checkpoint(command: Run, unfinished: Path) -> None:
    """The one before is used, with a warning; without any, one line reports it."""
    newest, *others = sorted((unfinished / "checkpoints").iterdir(), reverse=True)
    newest.write_bytes(newest.read_bytes()[:-1000])
    done = command("evaluate", "bbbb", "--checkpoint", "last")
    assert done.returncode == 0
    assert done.stderr.startswith(f"warning: logs/batch_norm/bbbb0000/checkpoints/{newest.name} is damaged or not")
    assert "(after 2,000 training images)" in done.stdout
    for path in others:
        path.write_bytes(b"")
    done = command("evaluate", "bbbb", "--checkpoint", "best")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: logs/batch_norm/bbbb0000 has no usable checkpoint: logs/")


def test_from_another_folder(command: Run, work: Path, data_path: Path, environment: dict[str, str]) -> None:
    """The data folder of the run is used, and nothing is written."""
    (work / "data").symlink_to(data_path)
    small = ["epochs=1", "train_samples=500", "valid_samples=100", "inner_iterations=1"]
    assert command("train", *small).returncode == 0
    (work / "elsewhere").mkdir()
    evaluate = [sys.executable, "-m", "labml_bn.evaluate", "latest", "--logs", "../logs"]
    done = subprocess.run(
        evaluate, cwd=work / "elsewhere", env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list((work / "elsewhere").iterdir()) == []
    (run,) = runs(work)
    named = yaml.safe_load((run / "configs.yaml").read_text())["data_folder"]["computed"]
    assert named == "../../../data"
    assert str(work).encode() not in (run / WEIGHTS).read_bytes()

    (work / "data").unlink()
    (work / "elsewhere" / "data").symlink_to(data_path)
    done = subprocess.run(
        evaluate, cwd=work / "elsewhere", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    gone = f"the data folder of ../logs/batch_norm/{run.name} does not have MNIST (../data): using data\n"
    assert done.stderr == gone


def test_statistics_without_normalization(command: Run, work: Path, data_path: Path) -> None:
    small = ["epochs=1", "train_samples=500", "valid_samples=100", "inner_iterations=1"]
    assert command("train", *small, "norm=none", f"data_path={data_path}").returncode == 0
    assert command("evaluate", "latest").returncode == 0
    done = command("evaluate", "latest", "--statistics", "batch")
    assert done.returncode == 2
    assert "norm=none has no statistics" in done.stderr
