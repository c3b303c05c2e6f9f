"""Random distortions of training images, a batch at a time, so that each epoch has other images.

Each image is moved by an affine map (shift, rotation, scale, shear) and by a smooth random field of displacements
(Simard et al. 2003). Both are combined and applied in one bilinear interpolation.
"""

from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Array = npt.NDArray[np.float64]

#: The displacements are drawn on a grid of this size over the image and interpolated bicubically. Its distance of 6.75
#: pixels gives about the smoothness of Simard's Gaussian with a standard deviation of 4 pixels, and costs less.
_GRID = 5


@dataclass(frozen=True)
class Augmentation:
    """How much the training images are distorted. Each image draws every quantity uniformly from its range.

    Arguments:
        shift: pixels; up to so far to the left or right, and up or down
        rotation: degrees; up to so far counterclockwise or clockwise
        scale: from 1 - `scale` to 1 + `scale` times as large
        shear: degrees; vertical lines are slanted up to so far to the left or right
        elastic: pixels; the points of a grid of 5 × 5 are displaced up to so far in both directions, and what is
            between them smoothly
    """

    shift: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0

    def __call__(self, pixels: Tensor, seed: int, epoch: int, number: int) -> Tensor:
        """The images [batch, 1, side, side] of batch `number` of an epoch, distorted; the background must be 0.

        The random numbers depend on the other arguments alone: they are the same on every device, and after a resume.
        """
        if not any(astuple(self)):
            return pixels
        # The key distinguishes them from the numbers that give the order of the images.
        random = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(number,)))
        n = len(pixels)
        shift = random.uniform(-self.shift, self.shift, (n, 2))
        rotation = np.radians(random.uniform(-self.rotation, self.rotation, n))
        scale = random.uniform(1 - self.scale, 1 + self.scale, n)
        shear = np.radians(random.uniform(-self.shear, self.shear, n))
        elastic = random.uniform(-self.elastic, self.elastic, (n, 2, _GRID, _GRID)) if self.elastic else None
        return distort(pixels, shift, rotation, scale, shear, elastic)


def distort(
    pixels: Tensor,
    shift: Array,
    rotation: Array,
    scale: Array,
    shear: Array,
    elastic: Array | None = None,
) -> Tensor:
    """Scale, shear, rotate and shift the images [n, 1, side, side] about their centres, then displace their points.

    `shift` is [n, 2], pixels to the right and down; `rotation` and `shear` are [n], in radians, `scale` is [n];
    `elastic` is [n, 2, grid, grid], pixels to the right and down. Pixels from outside an image are 0.
    """
    side = pixels.shape[-1]
    # Each pixel of the result is read from the position that the inverse maps give. The unit is half an image.
    sine, cosine, slope = np.sin(rotation), np.cos(rotation), np.tan(shear)
    inverse = np.array([[cosine - slope * sine, -sine - slope * cosine], [sine, cosine]]).transpose(2, 0, 1)
    inverse /= scale[:, None, None]
    offset = -inverse @ (shift * 2 / side)[:, :, None]
    maps = torch.from_numpy(np.concatenate([inverse, offset], axis=2)).to(pixels)
    positions = F.affine_grid(maps, list(pixels.shape), align_corners=False)
    if elastic is not None:
        grid = torch.from_numpy(elastic * 2 / side).to(pixels)
        # The interpolation of a row, as a matrix [side, grid]: several times as fast as interpolating each image.
        rows = torch.eye(grid.shape[-1]).to(grid)[None, None]
        weights = F.interpolate(rows, (side, grid.shape[-1]), mode="bicubic", align_corners=True)[0, 0]
        positions = positions - (weights @ grid @ weights.T).permute(0, 2, 3, 1)
    return F.grid_sample(pixels, positions, mode="bilinear", padding_mode="zeros", align_corners=False)
