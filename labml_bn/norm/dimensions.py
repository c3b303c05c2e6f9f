"""The layer for a fixed number of dimensions, as instances of `torch.nn.BatchNorm1d`, `2d` and `3d`.

Code that freezes, counts or initializes layers often finds them by `isinstance(layer, nn.BatchNorm2d)`, which a
`BatchNorm` is not: it accepts inputs of any number of dimensions. The classes here compute the same, but each is an
instance of PyTorch's class too, and accepts only the inputs that this one accepts. `convert_batch_norm` uses them.

Two kinds of code need PyTorch's layers themselves, which `restore_batch_norm` gives. Code that creates another layer
from the attributes that PyTorch's have loses this project's: `torch.nn.SyncBatchNorm.convert_sync_batchnorm` drops
`unbiased`, `activation`, `max_pool`, `ghost_batch_size`, `renorm` and a freeze without a warning. Code that compares
classes exactly does not find the layer: `torch.ao.quantization.fuse_modules` and eager quantization raise an error;
they accept a network after `fold`, too.
"""

from torch import Tensor, nn

from labml_bn.norm.batch_norm import BatchNorm


class BatchNorm1d(BatchNorm, nn.BatchNorm1d):
    """`BatchNorm` over inputs [batch, channels] or [batch, channels, length]; a `torch.nn.BatchNorm1d`.

    The arguments are those of `BatchNorm`. The forward pass also raises ValueError for other numbers of dimensions.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        _check_dimensions(input, (2, 3), "[batch, channels] or [batch, channels, length]")
        super()._check_input_dim(input)


class BatchNorm2d(BatchNorm, nn.BatchNorm2d):
    """`BatchNorm` over inputs [batch, channels, height, width]; a `torch.nn.BatchNorm2d`.

    The arguments are those of `BatchNorm`. The forward pass also raises ValueError for other numbers of dimensions.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        _check_dimensions(input, (4,), "[batch, channels, height, width]")
        super()._check_input_dim(input)


class BatchNorm3d(BatchNorm, nn.BatchNorm3d):
    """`BatchNorm` over inputs [batch, channels, depth, height, width]; a `torch.nn.BatchNorm3d`.

    The arguments are those of `BatchNorm`. The forward pass also raises ValueError for other numbers of dimensions.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        _check_dimensions(input, (5,), "[batch, channels, depth, height, width]")
        super()._check_input_dim(input)


#: PyTorch's class for each of these.
TORCH_CLASSES: dict[type[BatchNorm], type[nn.Module]] = {
    BatchNorm1d: nn.BatchNorm1d,
    BatchNorm2d: nn.BatchNorm2d,
    BatchNorm3d: nn.BatchNorm3d,
}


def _check_dimensions(input: Tensor, expected: tuple[int, ...], shape: str) -> None:
    if input.dim() not in expected:
        raise ValueError(f"expected an input of shape {shape}, got {tuple(input.shape)}")
