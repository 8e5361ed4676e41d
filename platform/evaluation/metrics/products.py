"""Products of feature matrices, tile by tile: 50,000 x 50,000 numbers pass through and never stay.

Features are float32 on the host; a tile of them becomes float64 on the GPU, or on the CPU where
there is none, and what is made of it stays there.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ....trainers.devices import choose_device
from ..arrays import Bools, Floats, Floats32, Pixels

TILE = 2048
"""Rows and columns of a tile: 32 MiB of float64, and a whole one is a product at full speed."""

Tile = tuple[slice, slice, Tensor]
"""Rows, columns, and the numbers (rows, columns), float64."""


def to_device(x: Floats | Floats32 | Bools | Pixels) -> Tensor:
    """Return the array as float64 on the device that computes products."""
    array = np.ascontiguousarray(x)
    if not array.flags.writeable:  # of a file, which PyTorch warns of
        array = array.copy()
    return torch.from_numpy(array).to(choose_device()).double()


def blocks(n: int) -> Iterator[slice]:
    """Yield the rows of n in tiles."""
    return (slice(start, min(start + TILE, n)) for start in range(0, n, TILE))


def products(x: Floats32, y: Floats32) -> Iterator[Tile]:
    """Yield x y^T of (n, d) and (m, d), in tiles that cover it."""
    for rows in blocks(len(x)):
        left = to_device(x[rows])
        for columns in blocks(len(y)):
            yield rows, columns, left @ to_device(y[columns]).T


def self_products(x: Floats32) -> Iterator[Tile]:
    """Yield the tiles of x x^T of (n, d) on and above its diagonal; the others are transposes."""
    for rows in blocks(len(x)):
        left = to_device(x[rows])
        for columns in blocks(len(x)):
            if columns == rows:
                yield rows, columns, left @ left.T
            elif columns.start > rows.start:
                yield rows, columns, left @ to_device(x[columns]).T


def squared_norms(x: Floats32) -> Tensor:
    """Return |x_i|^2 of (n, d), (n,) float64."""
    return torch.cat([to_device(x[rows]).square().sum(1) for rows in blocks(len(x))])
