"""Predictions for image files, and a network that cannot make any."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from labml_bn.cli.errors import UserError
from labml_bn.data.mnist import ImageSet
from labml_bn.trained.prediction import predict
from labml_bn.trained.weights import WEIGHTS, load_weights


def test_probabilities_are_those_of_the_network(trained: Path, test_set: ImageSet, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, pixels in zip(paths, test_set.images, strict=False):
        Image.fromarray(pixels.numpy()).save(path)
    predictions = predict(load_weights(trained / WEIGHTS), paths)
    assert [prediction.name for prediction in predictions] == ["7", "2", "1"]
    assert all(0.5 < prediction.probability <= 1 for prediction in predictions)


def test_a_diverged_network(trained: Path, test_set: ImageSet, tmp_path: Path) -> None:
    Image.fromarray(test_set.images[0].numpy()).save(tmp_path / "0.png")
    network = load_weights(trained / WEIGHTS)
    with torch.no_grad():
        network.model.get_parameter("fc2.weight").fill_(torch.nan)
    with pytest.raises(UserError, match="the network outputs NaN or infinity"):
        predict(network, [tmp_path / "0.png"])
