"""Small pictures inside a page: PNG data of whole pixels, which the browser only repeats."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..arrays import Pixels

SIDE = 56
"""Intended width of a tile, CSS pixels; whole multiples of its pixels come near it."""
WIDEST = 64
"""Pixels a side that a `bounded` tile has at most."""


@dataclass(frozen=True)
class Strip:
    """One picture of tiles in a row."""

    source: str
    """A data URI."""
    width: int
    """CSS pixels, a whole multiple of the picture's own."""
    height: int


def strip(tiles: Pixels) -> Strip:
    """Return tiles side by side with transparent gaps: one PNG, however many tiles.

    Args:
        tiles: uint8 (n, C, H, W), n at least 1, C is 1 or 3.
    """
    count, channels, height, width = tiles.shape
    gap = max(1, width // 16)
    row = np.zeros((height, count * (width + gap) - gap, channels + 1), np.uint8)
    for i, tile in enumerate(tiles):
        left = i * (width + gap)
        row[:, left : left + width, :-1] = tile.transpose(1, 2, 0)
        row[:, left : left + width, -1] = 255  # opaque; the gaps let the page through
    scale = max(1, round(SIDE / width))
    return Strip(png(Image.fromarray(row)), row.shape[1] * scale, height * scale)


def png(image: Image.Image) -> str:
    """Return a picture as a data URI."""
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def bounded(tiles: Pixels) -> Pixels:
    """Return tiles of at most `WIDEST` pixels a side: large ones reduced by a whole factor, as means.

    Args:
        tiles: uint8 (n, C, H, W).
    """
    n, channels, height, width = tiles.shape
    factor = -(-max(height, width) // WIDEST)
    if factor == 1:
        return tiles
    h, w = height // factor, width // factor
    blocks = tiles[:, :, : h * factor, : w * factor].reshape(n, channels, h, factor, w, factor)
    means: Pixels = blocks.mean((3, 5)).round().astype(np.uint8)
    return means
