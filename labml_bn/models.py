"""The network, the choice of its normalization, and the device that it runs on."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from labml_bn.norm import BatchNorm

#: What the setting `norm` can be: for a number of channels, the layer after a convolution and after a linear layer.
NORMS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "batch_norm": (functools.partial(BatchNorm, activation="relu"), functools.partial(BatchNorm, activation="relu")),
    "torch": (nn.BatchNorm2d, nn.BatchNorm1d),
    "none": (nn.Identity, nn.Identity),
}


#: A layer: its kind, its width, its kernel size and its stride. ("C", 20, 5, 1) is a convolution with 20 filters of
#: 5 × 5, without padding, ("P", 0, 2, 2) max pooling of 2 × 2, ("N", 500, 0, 0) a linear layer of 500 units.
Layer = tuple[str, int, int, int]

#: The layers of `ConvNet` by default. `settings/keys.py` has a notation for them.
LAYERS: tuple[Layer, ...] = (
    ("C", 20, 5, 1),
    ("P", 0, 2, 2),
    ("C", 50, 5, 1),
    ("P", 0, 2, 2),
    ("N", 500, 0, 0),
)


class ConvNet(nn.Module):
    """A network for images of 28 × 28 pixels: convolutions and poolings, then linear layers, the last to the classes.

    Every convolution and linear layer but the last is followed by a normalization and a ReLU. A layer before a
    normalization has no bias, because subtracting the mean would cancel it (§3.2 of the paper); without normalization
    every layer has one. This project's normalization includes the ReLU and a pooling of 2 × 2 that follows. The modules
    are called in their order: conv1, norm1, conv2, ...

    Arguments:
        norm: the normalization between the layers, a key of `NORMS`
        layers: the layers before the last, none of them linear before a convolution or pooling
        classes: the number of outputs

    Takes [batch, 1, 28, 28], gives the logits [batch, classes], both in the dtype of the parameters.
    """

    def __init__(self, norm: str = "batch_norm", layers: Sequence[Layer] = LAYERS, classes: int = 10) -> None:
        super().__init__()
        numbers: Counter[str] = Counter()
        for name, module in _modules(norm, layers, classes):
            numbers[name] += 1
            self.add_module(f"{name}{numbers[name]}", module)

    def forward(self, x: Tensor) -> Tensor:
        """The logits [batch, classes] of images [batch, 1, 28, 28]."""
        for module in self.children():
            x = module(x)
        return x


def _modules(norm: str, layers: Sequence[Layer], classes: int) -> Iterator[tuple[str, nn.Module]]:
    """The modules of `ConvNet` in their order, each with its name, which gets a number."""
    after_convolution, after_linear = NORMS[norm]
    bias = norm == "none"
    # This project's layer applies the ReLU itself, and the pooling if that comes next, in the same pass. The others
    # are followed by the ReLU after pooling, which gives the same, and there is a quarter as much to do.
    separate_relu, relu_due, pooled = norm != "batch_norm", False, False
    channels, side = 1, 28
    for (kind, width, size, stride), following in zip(layers, [*layers[1:], None], strict=True):
        if kind == "C":
            if relu_due:
                yield "relu", nn.ReLU()
            yield "conv", nn.Conv2d(channels, width, size, stride, bias=bias)
            pooled = norm == "batch_norm" and following == ("P", 0, 2, 2)
            yield "norm", after_convolution(width, max_pool=2) if pooled else after_convolution(width)
            channels, relu_due = width, separate_relu
        elif kind == "P" and not pooled:
            yield "pool", nn.MaxPool2d(size)
        else:
            pooled = False
        if kind != "N":
            side = (side - size) // stride + 1
    if relu_due:
        yield "relu", nn.ReLU()
    yield "flatten", nn.Flatten()
    features = channels * side * side
    for kind, width, _, _ in layers:
        if kind == "N":
            yield "fc", nn.Linear(features, width, bias=bias)
            yield "norm", after_linear(width)
            if separate_relu:
                yield "relu", nn.ReLU()
            features = width
    yield "fc", nn.Linear(features, classes)


def choose_device(use_cuda: bool, cuda_device: int) -> torch.device:
    """The GPU number `cuda_device`, or the last one if there are fewer; the CPU without a GPU or without `use_cuda`."""
    if not (use_cuda and torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", min(cuda_device, torch.cuda.device_count() - 1))
