"""The network, the choice of its normalization, and the device that it runs on."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bn.norm import BatchNorm


def _batch_norm_relu(channels: int) -> nn.Module:
    return BatchNorm(channels, activation="relu")


#: What the setting `norm` can be: for a number of channels, the layer after a convolution and after a linear layer.
NORMS: dict[str, tuple[Callable[[int], nn.Module], Callable[[int], nn.Module]]] = {
    "batch_norm": (_batch_norm_relu, _batch_norm_relu),
    "torch": (nn.BatchNorm2d, nn.BatchNorm1d),
    "none": (nn.Identity, nn.Identity),
}


class ConvNet(nn.Module):
    """Two convolutional and two linear layers for images of 28 × 28 pixels, normalized before each nonlinearity.

    A layer before a normalization has no bias, because subtracting the mean would cancel it (§3.2 of the paper);
    without normalization every layer has one.

    Arguments:
        norm: the normalization between the layers, a key of `NORMS`
        classes: the number of outputs

    Takes [batch, 1, 28, 28], gives the logits [batch, classes], both in the dtype of the parameters.
    """

    def __init__(self, norm: str = "batch_norm", classes: int = 10) -> None:
        super().__init__()
        after_convolution, after_linear = NORMS[norm]
        bias = norm == "none"
        self.conv1 = nn.Conv2d(1, 20, kernel_size=5, bias=bias)
        self.norm1 = after_convolution(20)
        self.conv2 = nn.Conv2d(20, 50, kernel_size=5, bias=bias)
        self.norm2 = after_convolution(50)
        self.fc1 = nn.Linear(50 * 4 * 4, 500, bias=bias)
        self.norm3 = after_linear(500)
        self.fc2 = nn.Linear(500, classes)
        # This project's layer applies the ReLU itself, in the same pass. The others are followed by it after pooling,
        # which gives the same, and there is a quarter as much to do.
        self.relu = nn.Identity() if norm == "batch_norm" else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The logits [batch, classes] of images [batch, 1, 28, 28]."""
        x = self.relu(F.max_pool2d(self.norm1(self.conv1(x)), 2))
        x = self.relu(F.max_pool2d(self.norm2(self.conv2(x)), 2))
        x = self.relu(self.norm3(self.fc1(x.flatten(1))))
        logits: Tensor = self.fc2(x)
        return logits


def choose_device(use_cuda: bool, cuda_device: int) -> torch.device:
    """The GPU number `cuda_device`, or the last one if there are fewer; the CPU without a GPU or without `use_cuda`."""
    if not (use_cuda and torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", min(cuda_device, torch.cuda.device_count() - 1))
