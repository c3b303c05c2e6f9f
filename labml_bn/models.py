"""The networks: which layers, and which normalization between them."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from labml_bn.norm import BatchNorm


def _torch_batch_norm(channels: int, *, spatial: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if spatial else nn.BatchNorm1d(channels)


#: What can stand between the layers, by the name that configs use. Each makes a layer for a number of channels;
#: `spatial` says whether its input has height and width.
NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch_norm": lambda channels, spatial: BatchNorm(channels),
    "torch": _torch_batch_norm,
    "none": lambda channels, spatial: nn.Identity(),
}


class ConvNet(nn.Module):
    """Two convolutional and two linear layers for images of 28 × 28 pixels, normalized before each nonlinearity.

    A layer that a normalization follows has no bias, because subtracting the mean would take it away again (§3.2 of
    the paper); without normalization every layer has one.

    Arguments:
        norm: what stands between the layers, a key of `NORMS`
        classes: the number of outputs

    Takes [batch, 1, 28, 28], gives the classes' logits [batch, classes], both of the parameters' dtype.
    """

    def __init__(self, norm: str = "batch_norm", classes: int = 10) -> None:
        super().__init__()
        make_norm = NORMS[norm]
        bias = norm == "none"
        self.conv1 = nn.Conv2d(1, 20, kernel_size=5, bias=bias)
        self.norm1 = make_norm(20, spatial=True)
        self.conv2 = nn.Conv2d(20, 50, kernel_size=5, bias=bias)
        self.norm2 = make_norm(50, spatial=True)
        self.fc1 = nn.Linear(50 * 4 * 4, 500, bias=bias)
        self.norm3 = make_norm(500, spatial=False)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        """The logits [batch, classes] of images [batch, 1, 28, 28]."""
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        x = F.relu(self.norm3(self.fc1(x.flatten(1))))
        logits: Tensor = self.fc2(x)
        return logits
