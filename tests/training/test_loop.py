"""The training loop against a textbook loop in plain PyTorch, and what it reports to a watcher."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from labml_bn.data.mnist import ImageSet
from labml_bn.models import ConvNet
from labml_bn.training import loop, tracking
from labml_bn.training.loop import Evaluation, evaluate, train
from labml_bn.training.tracking import DivergedError
from tests.conftest import metrics


class Witness:
    """Records what is reported to it."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.validations: list[tuple[int, int, int]] = []
        self.epochs: list[tuple[int, Evaluation]] = []

    def batch(self, images: int) -> None:
        self.batches.append(images)

    def validation(self, epoch: int, step: int, loss: float, accuracy: float, valid: Evaluation) -> None:
        self.validations.append((epoch, step, valid.images))

    def epoch(self, epoch: int, test: Evaluation) -> None:
        self.epochs.append((epoch, test))


@pytest.fixture
def settings(data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv("HOME", str(tmp_path))
    small = {"epochs": 2, "train_samples": 1000, "valid_samples": 500, "device.use_cuda": False}
    return {**small, "data_path": str(data_path), "logs_path": str(tmp_path / "logs")}


def test_population_statistics(settings: dict[str, object]) -> None:
    """They are those of the first training images, undistorted, by the last weights; nothing before changes."""
    settings |= {"augmentation.rotation": 90, "inner_iterations": 1}
    found = []
    for samples in (300, 0):
        c = tracking.prepare({**settings, "population_samples": samples})
        with tracking.recording() as run:
            final = train(c, Witness())
        found.append((c.model, final, metrics(run)))
    (model, final, logged), (usual, _, expected) = found
    test = ["loss.test", "accuracy.test"]
    for name, points in expected.items():
        assert logged[name][:-1] == points[:-1]
        assert (logged[name][-1] == points[-1]) is (name not in test)
    assert final is not None
    assert logged["loss.test"][-1][1] == [pytest.approx(final.loss)]
    for (_, one), (_, other) in zip(model.named_parameters(), usual.named_parameters(), strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        images = (c.train_set.images[:300, None].double() / 255 - 0.1307) / 0.3081
        convolved = model.get_submodule("conv1").double()(images)
    var, mean = torch.var_mean(convolved, (0, 2, 3))
    torch.testing.assert_close(model.get_buffer("norm1.running_mean").double(), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.get_buffer("norm1.running_var").double(), var, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "parts", "validations"),
    [
        (100, 5, [(2, 100), (4, 100), (6, 100), (8, 100), (10, 100)]),
        (64, 3, [(6, 166), (11, 167), (16, 167)]),
        (500, 10, [(1, 250), (2, 250)]),  # more parts than steps
        (1000, 1, [(1, 500)]),
    ],
)
def test_validations_cover_each_test_image_once_an_epoch(
    settings: dict[str, object], batch_size: int, parts: int, validations: list[tuple[int, int]]
) -> None:
    c = tracking.prepare({**settings, "train_batch_size": batch_size, "inner_iterations": parts})
    witness = Witness()
    with tracking.recording():
        final = train(c, witness)
    assert witness.validations == [(epoch, *validation) for epoch in (1, 2) for validation in validations]
    assert sum(witness.batches) == 2 * 1000
    assert [epoch for epoch, _ in witness.epochs] == [1, 2]
    assert final == witness.epochs[-1][1]
    assert final.images == 500


def test_one_validation_an_epoch_is_the_evaluation(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All test images are evaluated once, not twice with the same weights."""
    c = tracking.prepare({**settings, "inner_iterations": 1, "train_batch_size": 500})
    evaluations: list[Evaluation] = []

    def evaluated(*arguments: Any) -> Evaluation:
        evaluations.append(evaluate(*arguments))
        return evaluations[-1]

    monkeypatch.setattr(loop, "evaluate", evaluated)
    witness = Witness()
    with tracking.recording():
        train(c, witness)
    assert [test for _, test in witness.epochs] == evaluations
    assert len(evaluations) == 2


def test_equals_a_plain_loop(settings: dict[str, object], data_path: Path) -> None:
    """The trained weights are those of the textbook loop over the same batches."""
    c = tracking.prepare({**settings, "dtype": "float64", "norm": "torch", "seed.seed": 3})
    with tracking.recording():
        final = train(c, Witness())

    torch.manual_seed(3)
    model = ConvNet("torch").double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    train_set: ImageSet = c.train_set
    for epoch in range(2):
        order = np.random.default_rng([3, epoch]).permutation(1000)
        for first in range(0, 1000, 64):
            index = order[first : first + 64]
            x = (train_set.images[index].unsqueeze(1).double() / 255 - 0.1307) / 0.3081
            optimizer.zero_grad()
            F.cross_entropy(model(x), train_set.labels[index]).backward()
            optimizer.step()
    torch.testing.assert_close(dict(c.model.state_dict()), dict(model.state_dict()), rtol=1e-7, atol=1e-9)

    model.eval()
    x, labels = c.valid_set.batch(slice(None))
    logits = model(x)
    assert final is not None
    assert final.correct == (logits.argmax(1) == labels).sum()
    assert final.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_does_not_change_the_network(settings: dict[str, object], training: bool) -> None:
    c = tracking.prepare(settings)
    c.model.train(training)
    before = {name: value.clone() for name, value in c.model.state_dict().items()}
    evaluate(c.model, c.valid_set.batches(200))
    assert c.model.training == training
    torch.testing.assert_close(dict(c.model.state_dict()), before, rtol=0, atol=0)


def test_losses_that_are_checked_at_the_next_validation(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the error names the first step with a non-finite loss, and the log ends before it."""
    step: Any = loop.train_step

    def unchecked(*arguments: Any) -> Any:
        *others, check_loss = arguments
        assert check_loss is True
        return step(*others, False)

    monkeypatch.setattr(loop, "train_step", unchecked)
    c = tracking.prepare({**settings, "inner_iterations": 2})

    class Corrupter(Witness):
        def batch(self, images: int) -> None:
            super().batch(images)
            if len(self.batches) == 10:
                with torch.no_grad():
                    c.model.get_parameter("conv2.weight")[0] = torch.inf

    witness = Corrupter()
    with (
        pytest.raises(DivergedError, match=r"^epoch 1, step 11: the loss is nan: non-finite values; first in "),
        tracking.recording() as run,
    ):
        train(c, witness)
    assert len(witness.batches) == 16
    assert [step for step, _ in metrics(run)["loss.train"]] == [64 * step for step in range(1, 11)]


def test_a_network_with_non_finite_weights_is_not_saved(settings: dict[str, object]) -> None:
    """The loss was finite, but the weights after the step are not."""
    c = tracking.prepare({**settings, "checkpoint_interval": 0.1})
    saved = []

    class Corrupter(Witness):
        def batch(self, images: int) -> None:
            super().batch(images)
            if len(self.batches) == 4:
                with torch.no_grad():
                    c.model.get_parameter("conv2.weight")[0] = torch.inf

    with (
        pytest.raises(DivergedError, match=r"epoch 1, step 4: non-finite values; first in conv2's weight"),
        tracking.recording(),
    ):
        train(c, Corrupter(), save=lambda progress, test: saved.append(progress.step))
    assert saved == [2]
