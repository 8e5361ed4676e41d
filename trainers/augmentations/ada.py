"""ADA for diffusion models: geometric augmentations that the network is conditioned on.

Karras et al. 2020 (ADA) made the operations for GANs, Karras et al. 2022 (EDM, appendix F.2) gave
diffusion models the geometric ones with their parameters as a condition, and CBDM trains so
("CBDM + ADA"). As in CBDM's released code: a fixed probability, nothing adaptive, no colors. A row
has the parameters a_0 .. a_7, each zero for an operation that is not applied:

    a_0, a_1   1: mirrored left to right; 1: upside down
    a_2        enlarged by 2^(0.2 a_2)
    a_3        turned counter-clockwise by a_3
    a_4, a_5   stretched by 2^(0.2 a_5) along the direction a_4 and by the inverse across it, a_4
               from the x axis (to the right) towards the y axis (downwards)
    a_6, a_7   moved right by a_6 / 8 of the width and down by a_7 / 8 of the height

They compose to one map from points of the image to points of the result, about the centre,

    M = F_x(a_0) F_y(a_1) S(a_2) R(-a_3) [R(a_4) A(a_5) R(-a_4)] T(a_6, a_7)

in the released code's order: the shift is applied first and the mirrors last. EDM multiplies in the
opposite order, which matters where two operations are applied to one image, and stretches along -a_4,
which matters for every stretch.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..randomness import BatchRandom
from .base import AugmentationConfig


class ADAConfig(AugmentationConfig):
    """Geometric augmentations as a condition of the network; images are generated without any."""

    numbers: ClassVar[int] = 9
    flips: ClassVar[bool] = True

    name: Literal["ada"] = "ada"
    probability: float = Field(0.12, ge=0, le=1)
    """Of each operation on an image, except the mirror, which has 1/2. 0.12 in CBDM and EDM."""

    def __call__(self, images: Tensor, rng: BatchRandom) -> tuple[Tensor, Tensor]:
        """Augment a batch; see `AugmentationConfig`. The result may leave [-1, 1] a little."""
        a = self.sample_parameters(rng)
        return transform(images, a), condition(a).to(images.device, non_blocking=True)

    def sample_parameters(self, rng: BatchRandom) -> Tensor:
        """Sample the parameters a_0 .. a_7 of each row, (B, 8) float64, on the CPU."""
        applied = rng.uniform("ada.done", 5) < self.probability
        y_flipped, scaled, turned, stretched, moved = applied.double().unbind(1)
        x_flip, y_flip = (rng.uniform("ada.flip", 2) < 0.5).double().unbind(1)
        angle, direction = (math.pi * (2 * rng.uniform("ada.angle", 2) - 1)).unbind(1)
        # standard normal; a uniform 0, which would give -inf, becomes the smallest other number
        size = torch.special.ndtri(rng.uniform("ada.size", 4).clamp(min=2**-53))
        scale, stretch, right, down = size.unbind(1)
        return torch.stack(
            [
                x_flip,
                y_flip * y_flipped,
                scale * scaled,
                angle * turned,
                direction * stretched,
                stretch * stretched,
                right * moved,
                down * moved,
            ],
            1,
        )


def condition(a: Tensor) -> Tensor:
    """Return the network's condition, zeros for an unchanged image: (B, 8) float64 -> (B, 9) float32.

    As published (EDM, CBDM), a stretch by a_5 along a_4 and one by -a_5 along a_4 + pi, which undo
    each other, have the same numbers; everything else can be recovered from them.
    """
    a_0, a_1, a_2, a_3, a_4, a_5, a_6, a_7 = a.unbind(1)
    values = [a_0, a_1, a_2, a_3.cos() - 1, a_3.sin(), a_5 * a_4.cos(), a_5 * a_4.sin(), a_6, a_7]
    return torch.stack(values, 1).float()


def transform(images: Tensor, a: Tensor) -> Tensor:
    """Apply each image's parameters to it; differentiable in the images.

    Mirrors only reorder pixels, which is exact. Rows without another operation, three in five at the
    default probability, are not resampled and keep their values.

    Args:
        images: (B, C, H, W), on any device.
        a: (B, 8) float64, on the CPU, where the rows to resample are known without waiting for a GPU.
    """
    device = images.device
    rows = (a[:, 2:] != 0).any(1).nonzero()[:, 0]  # (R,)
    linear, shift = source_map(a[rows], *images.shape[2:])
    rows, linear, shift = (x.to(device, non_blocking=True) for x in (rows, linear, shift))
    images = images.index_copy(0, rows, _warp(images[rows], linear, shift))
    for column, axis in ((0, 3), (1, 2)):  # F_x, F_y
        flip = a[:, column, None, None, None].bool().to(device, non_blocking=True)
        images = torch.where(flip, images.flip(axis), images)
    return images


def source_map(a: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the inverse of M without the mirrors, from points of the result to points of the image.

    Returns:
        L (R, 2, 2) and s (R, 2) float32: point p is taken from L p + s, in (x, y) pixels from the centre.
    """
    _, _, a_2, a_3, a_4, a_5, a_6, a_7 = a.unbind(1)
    stretch = torch.exp2(0.2 * a_5)
    across = torch.diag_embed(torch.stack([1 / stretch, stretch], 1))  # A^-1, (R, 2, 2)
    linear = _rotation(a_4) @ across @ _rotation(-a_4) @ _rotation(a_3)
    linear = linear * torch.exp2(-0.2 * a_2)[:, None, None]
    shift = torch.stack([a_6 * width, a_7 * height], 1) / -8  # (R, 2)
    return linear.float(), shift.float()


def _warp(images: Tensor, linear: Tensor, shift: Tensor) -> Tensor:
    """Resample once: bicubic, unclipped, the image mirrored at its last pixels beyond the border.

    As scikit-image's `warp(order=3, mode="reflect", clip=False)`, which the released code calls for
    one image at a time. Not `grid_sample`: its kernel (a = -0.75) does not even reproduce a linear
    ramp. Not `affine_grid`: its matrix product is in TF32 on a GPU, an error of 0.01 pixels.
    """
    count, channels, height, width = images.shape
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x = torch.arange(width, device=images.device) - centre_x  # (W,)
    y = torch.arange(height, device=images.device)[:, None] - centre_y  # (H, 1)
    (xx, xy), (yx, yy) = (row.unbind(1) for row in linear[..., None, None].unbind(1))
    shift_x, shift_y = shift[..., None, None].unbind(1)  # (R, 1, 1), as xx, xy, yx and yy
    columns, weight_x = _taps(xx * x + xy * y + shift_x + centre_x, width)  # (R, 4, H, W)
    rows, weight_y = _taps(yx * x + yy * y + shift_y + centre_y, height)
    pixels = images.flatten(2)  # (R, C, H W)
    warped = torch.zeros_like(images)
    for row, weight in zip(rows.unbind(1), weight_y.unbind(1), strict=True):
        index = (row[:, None] * width + columns).flatten(1)  # (R, 4 H W)
        taken = pixels.gather(2, index[:, None].expand(-1, channels, -1))
        taken = taken.view(count, channels, 4, height, width)
        warped = warped + (taken * weight_x[:, None]).sum(2) * weight[:, None]
    return warped


def _taps(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the four pixels around each position along one axis, and their weights.

    Cubic convolution (Keys 1981) with a = -1/2, which reproduces parabolas exactly.

    Args:
        position: (R, H, W) float32, in pixels; may lie outside of [0, size - 1].

    Returns:
        indices in [0, size), (R, 4, H, W) int64, and weights of the same shape that sum to 1.
    """
    first = position.floor()
    offset = torch.arange(-1, 3, device=position.device)[:, None, None]  # (4, 1, 1)
    period = 2 * (size - 1)
    index = (first.long()[:, None] + offset).remainder(period)
    index = torch.minimum(index, period - index)  # mirrored at both ends
    d = position - first  # in [0, 1)
    weights = [
        ((2 - d) * d - 1) * d / 2,
        ((3 * d - 5) * d * d + 2) / 2,
        ((4 - 3 * d) * d + 1) * d / 2,
        (d - 1) * d * d / 2,
    ]  # Keys' kernel at the distances 1 + d, d, 1 - d and 2 - d
    return index, torch.stack(weights, 1)


def _rotation(angle: Tensor) -> Tensor:
    """Return the matrices that rotate points by an angle from x towards y, (R,) -> (R, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], 1).reshape(-1, 2, 2)
