"""The nearest training image of the same class: d1 and d2 of DiffuLT, equations 5 and 6.

|x - y|^2 = |x|^2 + |y|^2 - 2 x.y, by blocks of matrix products: the nearest y has the greatest
x.y - |y|^2 / 2. Where x is near y this cancels, so for pixels it is exact. Less 128 they are whole
numbers in -128..127: float32 holds every sum of `EXACT` of their products, and float64 the sum of those
sums. Distances of pixels then depend neither on blocks nor on the device, an exact copy has 0, and of
equally near images the first is taken. Features are multiplied in float32, and once more in float64
where rounding could have found another than the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...trainers.data.packed import Images
from ...trainers.devices import choose_device
from ..evaluation.arrays import Floats32, Ints, Pixels
from ..evaluation.extractors.network import whole_products

EXACT = 1024
"""Values in a float32 product: 1024 x 128^2 = 2^24, up to which float32 has every whole number."""
ROWS, COLUMNS = 1024, 1024
"""Images of a block, generated and real: its sums fit into a processor's cache."""


Likeness = Callable[[Tensor, Tensor], Tensor]
"""x.y - |y|^2 / 2 of all pairs, (n, D) and (m, D) -> (n, m)."""


PRECISION = 1e-4
"""Of d2, relative: within it, the nearest features may be others."""


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of the same class of each of n images."""

    distance: Floats32
    """(n,) L2, infinite where the class has no training image."""
    index: Ints
    """(n,) which training image, -1 where there is none."""


def nearest_in_class(
    images: Pixels | Floats32, labels: Ints, train: Images | Floats32, train_labels: Ints
) -> Nearest:
    """Return the nearest training image of the same class of each image, on this machine's device.

    Args:
        images: pixels (n, ...), or features (n, d) float32.
        labels: (n,).
        train: (m, ...), of the same type and shape.
        train_labels: (m,).
    """
    distance = np.full(len(images), np.inf, np.float32)
    index = np.full(len(images), -1, np.int64)
    products = _Products(choose_device())
    for c in np.unique(labels):
        own, others = np.flatnonzero(labels == c), np.flatnonzero(train_labels == c)
        if not len(others):
            continue
        y = _on_device(train, others)
        for start in range(0, len(own), ROWS):
            rows = own[start : start + ROWS]
            x = _on_device(images, rows)
            if x.is_floating_point():
                squares, nearest = _nearest_features(x, y, y.mean(0), products)
            else:
                greatest, nearest = _nearest(x, y, products.of_pixels)
                squares = 2 * (products.half_squares(x) - greatest)
            distance[rows] = squares.sqrt().cpu().numpy()
            index[rows] = others[nearest.cpu().numpy()]
    return Nearest(distance, index)


def _nearest(x: Tensor, y: Tensor, likeness: Likeness) -> tuple[Tensor, Tensor]:
    """Return the greatest likeness of each x to a y, (n,) float64, and of which, the first of several, (n,)."""
    best = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
    index = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for start in range(0, len(y), COLUMNS):
        of_pairs = likeness(x, y[start : start + COLUMNS])
        columns = _first_greatest(of_pairs)
        values = of_pairs.gather(1, columns[:, None])[:, 0]
        better = values > best
        best = torch.where(better, values, best)
        index = torch.where(better, start + columns, index)
    return best, index


def _nearest_features(
    x: Tensor, y: Tensor, middle: Tensor, products: _Products
) -> tuple[Tensor, Tensor]:
    """Return the least |x - y|^2 of each x, (n,) float32, and which y has it, (n,) int64.

    Args:
        x: float32 (n, d), and y: float32 (m, d).
        middle: (d,) what is taken from both before they are multiplied: smaller values round less.
    """
    a, b = x - middle, y - middle
    best, nearest = _nearest(a, b, products.of_features)
    squares = (x - y[nearest]).square().sum(1)
    # Rounding adds up to about sqrt(d) 2^-24 |a| |b| in a product of d values (Higham 2002, section 2.8), and a
    # squared distance has it twice, from each of two that are compared.
    size = b.square().sum(1).max() + squares + 2 * best  # |b|^2 + |a|^2 >= 2 |a| |b|
    wrong = 4 * x.shape[1] ** 0.5 * 2.0**-24 * size
    again = torch.nonzero(~(squares * PRECISION > wrong))[:, 0]
    if len(again):
        _, nearest[again] = _nearest(a[again].double(), b.double(), products.of_features)
        squares[again] = (x[again] - y[nearest[again]]).square().sum(1)
    return squares, nearest


def _first_greatest(values: Tensor) -> Tensor:
    """Return the column of each row's greatest value, the first of several, (n, m) -> (n,)."""
    if values.device.type == "cpu":  # NumPy 2.4 takes a sixth of the time of PyTorch 2.15
        return torch.from_numpy(values.numpy().argmax(1))
    return values.max(1).indices


class _Products:
    """Products of blocks, in memory that is allocated once: for each block it would cost as much as they do."""

    def __init__(self, device: torch.device) -> None:
        self.x = torch.empty(ROWS, EXACT, device=device)
        self.y = torch.empty(COLUMNS, EXACT, device=device)
        self.products = torch.empty(ROWS * COLUMNS, device=device)
        self.sums = torch.empty(ROWS * COLUMNS, dtype=torch.float64, device=device)

    def of_features(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x.y - |y|^2 / 2 of all pairs, (n, d) and (m, d) -> (n, m), all of one type."""
        memory = self.products if x.dtype == torch.float32 else self.sums
        with whole_products():
            products = torch.mm(x, y.T, out=_block(memory, len(x), len(y)))
        return products.sub_(y.square().sum(1) / 2)

    def of_pixels(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x.y - |y|^2 / 2 of all pairs, uint8 (n, D) and (m, D) -> (n, m) float64, exact."""
        sums, products = (_block(each, len(x), len(y)) for each in (self.sums, self.products))
        sums.copy_(-self.half_squares(y))
        with whole_products():
            for part in _parts(x.shape[1]):
                torch.mm(_centred(x, part, self.x), _centred(y, part, self.y).T, out=products)
                sums += products
        return sums

    def half_squares(self, pixels: Tensor) -> Tensor:
        """Return |x|^2 / 2 of pixels less 128, uint8 (n, D) -> (n,) float64, exact; n <= COLUMNS."""
        total = torch.zeros(len(pixels), dtype=torch.float64, device=pixels.device)
        for part in _parts(pixels.shape[1]):
            total += _centred(pixels, part, self.y).square_().sum(1) / 2
        return total


def _block(memory: Tensor, rows: int, columns: int) -> Tensor:
    return memory[: rows * columns].view(rows, columns)


def _parts(values: int) -> Iterator[slice]:
    return (slice(start, min(start + EXACT, values)) for start in range(0, values, EXACT))


def _centred(pixels: Tensor, part: slice, buffer: Tensor) -> Tensor:
    """Return a part of uint8 (n, D) less 128, float32 in the buffer."""
    return buffer[: len(pixels), : part.stop - part.start].copy_(pixels[:, part]).sub_(128)


def _on_device(images: Images | Floats32, rows: Ints) -> Tensor:
    """Return the values of the images at `rows`, (n, D), of the same type."""
    return torch.from_numpy(images[rows].reshape(len(rows), -1)).to(choose_device())
