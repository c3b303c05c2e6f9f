"""Predictions for images, images unlike the training images, and a network that cannot make any."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from labml_bn.cli.errors import UserError
from labml_bn.data.mnist import CLASSES, ImageSet
from labml_bn.trained.prediction import Prediction, predict
from labml_bn.trained.weights import WEIGHTS, Trained, load_weights


@pytest.fixture
def network(trained: Path) -> Trained:
    return load_weights(trained / WEIGHTS)


@pytest.fixture
def digits(test_set: ImageSet) -> Tensor:
    """The first test images."""
    return test_set.images[:3]


def test_the_likeliest_classes_are_those_of_the_network(network: Trained, digits: Tensor) -> None:
    """With their probabilities, computed here in float64."""
    predictions = predict(network, digits)
    assert [prediction.likeliest[0][0] for prediction in predictions] == ["7", "2", "1"]
    for digit, prediction in zip(digits, predictions, strict=True):
        seen = (digit.double()[None, None] / 255 - 0.1307) / 0.3081
        with torch.no_grad():
            expected = network.model.double()(seen).softmax(1)[0]
        network.model.float()
        assert len(prediction.likeliest) == 3
        for rank, (name, probability) in enumerate(prediction.likeliest):
            assert CLASSES["MNIST"].index(name) == expected.argsort(descending=True)[rank]
            assert probability == pytest.approx(expected.sort(descending=True).values[rank].item(), abs=1e-5)
        assert 0 < prediction.distance < prediction.limit
        assert not prediction.unlike


def test_without_the_training_images(
    network: Trained, digits: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is downloaded, and a line says what is left out."""
    elsewhere = load_weights(network.run / WEIGHTS, data_path=str(tmp_path / "empty")) if network.run else network
    predictions = predict(elsewhere, digits)
    assert [prediction.likeliest for prediction in predictions] == [
        prediction.likeliest for prediction in predict(network, digits)
    ]
    assert not any(prediction.unlike for prediction in predictions)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("the images are not compared with the training images: ")
    assert not (tmp_path / "empty").exists()


def test_too_few_training_images(trained: Path, digits: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    network = load_weights(trained / WEIGHTS, train_samples=400)
    assert not any(prediction.unlike for prediction in predict(network, digits))
    assert capsys.readouterr().err == "the images are not compared with the training images: 400 are too few\n"


def test_unlike() -> None:
    def at(distance: float) -> Prediction:
        return Prediction([("7", 1.0)], distance, 0.5)

    assert [at(distance).unlike for distance in (0.4, 0.5, 0.6, torch.nan)] == [False, False, True, False]


def test_a_diverged_network(network: Trained, digits: Tensor) -> None:
    with torch.no_grad():
        network.model.get_parameter("fc2.weight").fill_(torch.nan)
    with pytest.raises(UserError, match="the network outputs NaN or infinity"):
        predict(network, digits)
