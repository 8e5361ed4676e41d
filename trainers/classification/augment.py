"""Random crops, mirror images and colours of training images, functions of (seed, batch, row).

torchvision's transforms take their random numbers from the global generator, and one set for all of a
batch; these have some of their own for each image, and work on all of them at once.
"""

from __future__ import annotations

import math
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.batches import crop
from ..randomness import BatchRandom
from .config import ClassificationConfig

SCALE, RATIO, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10
"""torchvision's RandomResizedCrop: share of the area, width by height, windows that are tried."""
LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a grey image, those of ITU-R BT.601 and torchvision."""


def augment(images: Tensor, rng: BatchRandom, config: ClassificationConfig) -> Tensor:
    """Return changed images of the same shape, uint8 or float32 in 0..255.

    Args:
        images: (B, C, H, W) uint8.
        rng: the random numbers of these B rows.
    """
    flip = config.flip is not False
    if config.crop == "padded":
        pad = images.shape[2] // 8 if config.pad is None else config.pad
        images = crop_and_flip(images, rng, pad, flip)
    else:
        images = resized_crop_and_flip(images, rng, flip)
    if config.colour_jitter:
        images = jitter_colours(images, rng, config.colour_jitter)
    return images


def crop_and_flip(images: Tensor, rng: BatchRandom, pad: int, flip: bool) -> Tensor:
    """Shift each image by up to `pad` pixels, filling with black, and mirror half of them.

    Args:
        images: (B, C, H, W) uint8.
        rng: the random numbers of these B rows.
    """
    chance = rng.uniform("crop and flip", 3).to(images.device)  # (B, 3)
    top, left = (chance[:, :2] * (2 * pad + 1)).long().unbind(1)  # in 0 .. 2 pad
    mirrored = chance[:, 2] < 0.5 if flip else None
    height, width = images.shape[2:]
    return crop(F.pad(images, (pad,) * 4), top, left, (height, width), mirrored)


def resized_crop_and_flip(images: Tensor, rng: BatchRandom, flip: bool) -> Tensor:
    """Scale a random window of each image to the image's size, bilinearly, and mirror half of them.

    Args:
        images: (B, C, H, W) uint8.
        rng: the random numbers of these B rows.

    Returns:
        (B, C, H, W) float32 in 0..255.
    """
    height, width = images.shape[2:]
    window = random_windows(rng, height, width).to(images.device, torch.float32)
    top, left, tall, wide = window.unbind(1)  # (B,) each
    y, x = _positions(top, tall, height), _positions(left, wide, width)  # (B, H), (B, W)
    if flip:
        mirrored = (rng.uniform("flip")[:, 0] < 0.5).to(images.device)
        x = torch.where(mirrored[:, None], x.flip(1), x)
    # in units of grid_sample: the image spans -1 to 1 from edge to edge of its outer pixels
    y, x = (2 * y + 1) / height - 1, (2 * x + 1) / width - 1
    grid = torch.stack(
        [x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], 3
    )
    return F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)


def random_windows(rng: BatchRandom, height: int, width: int) -> Tensor:
    """Return top, left, height and width of a window for each row, (B, 4) int64, on the CPU.

    As torchvision's RandomResizedCrop; where none of its tries fits into the image, the whole image.
    """
    chance = rng.uniform("window", 2 * ATTEMPTS + 2)  # (B, 22)
    area = SCALE[0] + (SCALE[1] - SCALE[0]) * chance[:, :ATTEMPTS]
    low, high = map(math.log, RATIO)
    ratio = (low + (high - low) * chance[:, ATTEMPTS:-2]).exp()
    tall = (height * width * area / ratio).sqrt().round().long()  # (B, ATTEMPTS)
    wide = (height * width * area * ratio).sqrt().round().long()
    fits = (tall <= height) & (wide <= width) & (tall > 0) & (wide > 0)
    first = fits.long().argmax(1, keepdim=True)
    any_fits = fits.any(1)
    tall = torch.where(any_fits, tall.gather(1, first)[:, 0], height)  # (B,)
    wide = torch.where(any_fits, wide.gather(1, first)[:, 0], width)
    top = (chance[:, -2] * (height - tall + 1)).long()
    left = (chance[:, -1] * (width - wide + 1)).long()
    return torch.stack([top, left, tall, wide], 1)


def jitter_colours(images: Tensor, rng: BatchRandom, strength: float) -> Tensor:
    """Change brightness, contrast and saturation of each image, in an order of its own.

    As torchvision's ColorJitter with one strength for the three and no hue: a value v becomes
    f v + (1 - f) o, where o is black, the image's mean grey, or the pixel's grey.

    Args:
        images: (B, C, H, W) in 0..255; grey where C is not 3, with the mean as the pixel's grey.
        rng: the random numbers of these B rows.
        strength: f is in [1 - strength, 1 + strength].

    Returns:
        (B, C, H, W) float32 in 0..255.
    """
    chance = rng.uniform("colours", 4).to(images.device)
    factors = (1 + strength * (2 * chance[:, :3] - 1)).float()  # (B, 3)
    orders = torch.tensor(list(permutations(range(3))), device=images.device)
    order = orders[(chance[:, 3] * len(orders)).long()]  # (B, 3)
    channels = images.shape[1]
    luma = torch.tensor(LUMA if channels == 3 else [1 / channels] * channels, device=images.device)
    images = images.float()
    for change in order.unbind(1):  # (B,): 0 brightness, 1 contrast, 2 saturation
        grey = (images * luma[:, None, None]).sum(1, keepdim=True)  # (B, 1, H, W)
        which = change[:, None, None, None]
        other = torch.where(which == 1, grey.mean((2, 3), keepdim=True), grey) * (which > 0)
        factor = factors.gather(1, change[:, None])[:, :, None, None]
        images = (factor * images + (1 - factor) * other).clamp(0, 255)
    return images


def _positions(start: Tensor, size: Tensor, pixels: int) -> Tensor:
    """Return where the output's pixels lie in the image, (B, pixels), between the window's outer pixels."""
    step = (size / pixels)[:, None]
    within = (torch.arange(pixels, device=start.device) + 0.5) * step - 0.5
    return start[:, None] + within.clamp(min=0).minimum(size[:, None] - 1)
