"""The figure of misclassified images: which, in which order, and with which words."""

import numpy as np
import torch
from matplotlib.axes import Axes

from labml_bn.data.mnist import ImageSet
from labml_bn.trained import mistakes
from labml_bn.trained.evaluation import Classification


def classified(logits: torch.Tensor, labels: torch.Tensor) -> Classification:
    pixels = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1).expand(-1, 28, 28)
    return Classification("FashionMNIST", ImageSet.of("FashionMNIST", pixels, labels, torch.float32), logits)


def shown(axes: list[Axes]) -> list[int]:
    return [int(np.asarray(each.images[0].get_array())[0, 0]) for each in axes]


def test_the_most_confident_first() -> None:
    logits = torch.zeros(4, 10)
    logits[0, 3], logits[1, 3], logits[2, 7], logits[3, 1] = 1.0, 5.0, 2.0, 3.0
    figure = mistakes.draw_mistakes(classified(logits, torch.tensor([3, 0, 1, 0])))
    assert shown(figure.axes) == [1, 3, 2]
    confidence = torch.softmax(logits[1], 0).max().item()
    assert figure.axes[0].get_title() == f"T-shirt/top > Dress  {confidence:.0%}"
    assert figure.get_suptitle().startswith("3 of 4 images misclassified")


def test_at_most_a_hundred() -> None:
    logits = torch.zeros(130, 10)
    logits[:, 1] = torch.linspace(1, 2, 130)
    figure = mistakes.draw_mistakes(classified(logits, torch.zeros(130, dtype=torch.long)))
    assert shown(figure.axes) == list(range(129, 29, -1))
    assert "130 of 130 images misclassified, the 100 most confident of them" in figure.get_suptitle()


def test_no_mistakes() -> None:
    logits = torch.eye(10)
    figure = mistakes.draw_mistakes(classified(logits, torch.arange(10)))
    assert figure.axes == []
    assert figure.get_suptitle() == "0 of 10 images misclassified"
