"""Logged distributions against a float64 step of PyTorch's own layers; and that logging them changes nothing else."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bn.data.mnist import ImageSet
from labml_bn.models import ConvNet
from labml_bn.records.record import LINE_LIMIT, read_run
from labml_bn.settings.keys import MOST_CHANNELS, parsed_layers
from labml_bn.training import distributions, loop, tracking
from labml_bn.training.loop import Evaluation
from tests.conftest import Begin, Run, metrics, runs
from tests.training.test_run import assert_same, tracked, wait_for

#: Four steps, each of them followed by a validation.
SHORT = {
    **{"epochs": 1, "train_samples": 200, "train_batch_size": 50, "valid_samples": 100, "inner_iterations": 4},
    **{"device.use_cuda": False, "track": "distributions"},
}


class States:
    """Keeps the network's state at the beginning and after each step."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.states: list[dict[str, Tensor]] = []
        self.batch(0)

    def batch(self, images: int) -> None:
        self.states.append({name: value.clone() for name, value in self._model.state_dict().items()})

    def validation(self, *_: Any) -> None:
        pass

    def epoch(self, epoch: int, test: Evaluation) -> None:
        pass


def batches(images: ImageSet, size: int) -> list[tuple[Tensor, Tensor]]:
    """The batches of the first epoch with the default seed, in float64."""
    order = np.random.default_rng([5, 0]).permutation(len(images))
    found = []
    for first in range(0, len(order), size):
        index = order[first : first + size]
        found.append(((images.images[index, None].double() / 255 - 0.1307) / 0.3081, images.labels[index]))
    return found


def expected(model: nn.Module, x: Tensor, labels: Tensor) -> dict[str, Any]:
    """Batch statistics and gradients of a step of `model`, in float64; the statistics by NumPy."""
    found: dict[str, Any] = {}
    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):

            def observe(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                values = np.moveaxis(args[0].detach().numpy(), 1, 0).reshape(args[0].shape[1], -1)
                found[f"bn.{name}.batch_mean"], found[f"bn.{name}.batch_var"] = values.mean(1), values.var(1)

            hooks.append(layer.register_forward_pre_hook(observe))
    model.zero_grad()
    F.cross_entropy(model(x), labels).backward()
    for hook in hooks:
        hook.remove()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        layer, _, what = name.rpartition(".")
        gradient = parameter.grad.numpy()
        if layer.startswith("norm"):
            found[f"bn.{name}_gradient"] = gradient
        elif what == "weight":
            found[f"gradient.{name}"] = np.quantile(gradient, np.arange(21) / 20)
    return found


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"dtype": "float64"}, 1e-10),
        ({}, 2e-5),
        ({"norm": "torch", "dtype": "float64"}, 1e-10),
        ({"norm": "none"}, 2e-5),
        ({"channels_last": False}, 2e-5),
        # No pooling, pooling that is not fused, a first layer that is linear after pooling.
        ({"layers": "4C3-6C3-P3-12N-9N", "dtype": "float64"}, 1e-10),
        ({"layers": "P2-30N", "dtype": "float64"}, 1e-10),
        ({"optimizer.optimizer": "SGD", "optimizer.weight_decay": 0.3, "dtype": "float64"}, 1e-10),
        ({"precision": "bfloat16"}, 0.03),
    ],
    ids=lambda value: " ".join(f"{key}={one}" for key, one in value.items()) if isinstance(value, dict) else "",
)
def test_the_values_are_those_of_the_last_step(
    settings: dict[str, Any], tolerance: float, data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = {"data_path": str(data_path), "logs_path": str(tmp_path / "logs")}
    c = tracking.prepare({**SHORT, **settings, **paths})
    states = States(c.model)
    with tracking.recording() as run:
        loop.train(c, states)
    logged = metrics(run)
    norm = "none" if c.norm == "none" else "torch"
    model = ConvNet(norm, parsed_layers(c.layers)).double()
    names: set[str] = set()
    for step, (x, labels) in enumerate(batches(c.train_set, 50)):
        model.load_state_dict(states.states[step])
        found = expected(model, x, labels)
        for name, parameter in states.states[step + 1].items():
            if name.startswith("norm") and name.endswith(("weight", "bias")):
                found[f"bn.{name}"] = parameter.numpy()
        for name, values in found.items():
            seen, actual = logged[name][step]
            assert seen == 50 * (step + 1)
            if c.precision == "bfloat16" and "gradient" in name:
                continue  # rounding decides which of several values is the largest of a pooling
            scale = np.abs(values).max() * (10 if "gradient" in name else 1)
            np.testing.assert_allclose(actual, values, rtol=0, atol=tolerance * scale, err_msg=name)
        names |= found.keys()
    others = {name for name in logged if name.startswith(("bn.", "gradient.")) and ".running_" not in name}
    assert others == names
    layers = parsed_layers(c.layers)
    widths = [width for _, width, _, _ in layers if width]
    assert len(names) == (0 if norm == "none" else 6) * len(widths) + len(widths) + 1


def test_nothing_else_changes(data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and all other metrics are bit-identical, in the same lines of the log; the name is the same."""
    monkeypatch.setenv("HOME", str(tmp_path))
    short = {**SHORT, "epochs": 2, "train_samples": 190, "augmentation.rotation": 9, "population_samples": 100}
    paths = {"data_path": str(data_path), "logs_path": str(tmp_path / "logs")}
    found = []
    for track in ("metrics", "distributions"):
        c = tracking.prepare({**short, **paths, "inner_iterations": 2, "track": track})
        with tracking.recording() as run:
            loop.train(c, States(c.model))
        found.append((run, c.model.state_dict()))
    (plain, weights), (run, tracked_weights) = found
    torch.testing.assert_close(tracked_weights, weights, rtol=0, atol=0)
    lines = [{name: points for name, points in line.items() if name in metrics(plain)} for line in tracked(run)]
    assert lines == tracked(plain)
    assert len(metrics(run)) > len(metrics(plain))
    assert read_run(run).name == read_run(plain).name


def test_only_steps_before_a_validation_are_observed(
    data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the setting none is, and no layer keeps a hook."""
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = {"data_path": str(data_path), "logs_path": str(tmp_path / "logs")}
    observed = []

    def counted(input: Tensor) -> tuple[Tensor, Tensor]:
        observed.append(input.shape)
        return torch.zeros(1), torch.zeros(1)

    monkeypatch.setattr(distributions, "moments", counted)
    for track, expected in (("metrics", 0), ("distributions", 2 * 3)):
        observed.clear()
        c = tracking.prepare({**SHORT, **paths, "inner_iterations": 2, "track": track})
        with tracking.recording():
            loop.train(c, States(c.model))
        assert len(observed) == expected
        assert not any(module._forward_pre_hooks for module in c.model.modules())


@pytest.mark.parametrize(
    "values",
    [torch.randn(7, 5, 3, 3), torch.randn(1), torch.randn(3, 4).double(), torch.zeros(2, 0).new_ones(2, 3)],
)
def test_quantiles(values: Tensor) -> None:
    found = distributions.quantiles(values)
    np.testing.assert_allclose(found, torch.quantile(values.double().flatten(), torch.arange(21).double() / 20))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_quantiles_that_are_not_finite(value: float) -> None:
    """Without a warning, which would be an error here."""
    found = distributions.quantiles(torch.tensor([1.0, value, 2.0, 3.0]))
    assert found.shape == (21,)
    assert not np.isfinite(found).all()


@pytest.mark.slow
@pytest.mark.parametrize("ended", [signal.SIGINT, signal.SIGKILL])
def test_a_resumed_run(begin: Begin, train: Run, work: Path, small: list[str], ended: int) -> None:
    """Its log and its weights are those of an uninterrupted run."""
    assert train(*small, "track=distributions", "logs_path=uninterrupted").returncode == 0
    (uninterrupted,) = (work / "uninterrupted" / "batch_norm").glob("[!.]*")
    process = begin(*small, "track=distributions", "checkpoint_interval=0.25")
    wait_for(process, "epoch 2/3 step 8")
    process.send_signal(ended)
    process.communicate(timeout=60)
    assert train("--resume", "latest").returncode == 0
    (run,) = runs(work)
    assert_same(run, uninterrupted)
    assert len(metrics(run)["gradient.fc2.weight"]) == 3 * 4


def test_changed_when_resumed(train: Run, work: Path, small: list[str]) -> None:
    """From then on the distributions are logged, or no more."""
    assert train(*small, "epochs=1").returncode == 0
    assert train("--resume", "latest", "epochs=2", "track=distributions").returncode == 0
    assert train("--resume", "latest", "epochs=3", "track=metrics").returncode == 0
    (run,) = runs(work)
    steps = [step for step, _ in metrics(run)["bn.norm1.batch_mean"]]
    assert (len(steps), min(steps) > 1000, max(steps)) == (4, True, 2000)
    assert len(metrics(run)["bn.norm1.running_mean"]) == 12


@pytest.mark.parametrize("layers", ["", f"layers=P28-{MOST_CHANNELS - 1}N-1N"], ids=["default", "widest"])
def test_lines_are_short_enough_to_be_read(train: Run, work: Path, small: list[str], layers: str) -> None:
    more = [layers] if layers else []
    assert train(*small, *more, "track=distributions", "epochs=1", "inner_iterations=1").returncode == 0
    (run,) = runs(work)
    longest = max(map(len, (run / "log.jsonl").read_bytes().splitlines()))
    assert longest < LINE_LIMIT
    assert read_run(run).metrics().keys() == metrics(run).keys()
