"""From packed images to the tensors of a step and back, in whole batches."""

from __future__ import annotations

import torch
from torch import Tensor

from .packed import Indices, PackedImages


def load(packed: PackedImages, indices: Indices, pinned: bool) -> Tensor:
    """Return the images at `indices` (B,), as (B, C, H, W) uint8 in the host's memory.

    Args:
        pinned: into memory from which a GPU copies by itself. PyTorch uses the memory again once the copies that
            read it are done.
    """
    images = torch.empty((len(indices), *packed.image_shape), dtype=torch.uint8, pin_memory=pinned)
    packed.gather(indices, images.numpy())
    return images


def gather(packed: PackedImages, indices: Indices, device: torch.device) -> Tensor:
    """Return the images at `indices` (B,), as (B, C, H, W) uint8 on the device.

    They are copied to a GPU as bytes, from pinned memory, without the CPU waiting for it.
    """
    return load(packed, indices, device.type == "cuda").to(device, non_blocking=True)


def crop(
    images: Tensor,
    top: Tensor,
    left: Tensor,
    size: tuple[int, int],
    mirrored: Tensor | None = None,
) -> Tensor:
    """Return a window of each image, (B, C, *size), in the images' type.

    Args:
        images: (B, C, H, W), larger than `size` where windows are to differ.
        top, left: (B,) int64 on the images' device, the first row and column of each window.
        size: (height, width) of the windows.
        mirrored: (B,) bool on the images' device, which windows to mirror left to right.
    """
    device = images.device
    y = top[:, None] + torch.arange(size[0], device=device)  # (B, height)
    x = left[:, None] + torch.arange(size[1], device=device)  # (B, width)
    if mirrored is not None:
        x = torch.where(mirrored[:, None], x.flip(1), x)
    row = torch.arange(len(images), device=device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=device)[:, None, None]
    return images[row, channel, y[:, None, :, None], x[:, None, None, :]]


def to_float(images: Tensor, flip: Tensor | None) -> Tensor:
    """Scale bytes to [-1, 1].

    Args:
        images: (B, C, H, W) uint8.
        flip: (B,) bool on the same device, which rows to mirror left to right; None for no row.

    Returns:
        (B, C, H, W) float32: 0 becomes exactly -1 and 255 exactly 1.
    """
    if flip is not None:  # as bytes, which is a quarter of the memory traffic
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Invert `to_float`: clip to [-1, 1] and round to the nearest byte, any shape."""
    return images.to(torch.float32).clamp(-1.0, 1.0).add(1.0).mul_(127.5).round_().to(torch.uint8)
