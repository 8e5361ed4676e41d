"""How alike two images are once one is moved, cropped, mirrored, or made brighter to fit the other.

Both are scaled to at most `SIDE` pixels. Their likeness is a correlation of pixels over a window,

    rho(x, y) = (cov(x, y) + FLAT^2) / sqrt((var(x) + FLAT^2) (var(y) + FLAT^2)),

the Pearson correlation, to which neither brightness nor contrast matters, but where both are flat: their
noise does not make them different. Moments are over all pixels and channels of the window, so that
colours count. Normalised images are sqrt(2 - 2 rho) apart, in [0, 2].

Windows are compared in two steps. `nearest_pairs` compares `CELLS` x `CELLS` means of all images, for a
few positions and two sizes of a window, as matrix products, and `aligned` the pixels of the few best
pairs at every position and several enlargements. All that is summed are whole numbers small enough to
add without rounding, so that a result depends neither on blocks nor on the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, reduce
from itertools import chain, product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ....trainers.data.packed import Images
from ....trainers.devices import choose_device
from ..arrays import Bools, Floats, Ints, Pixels

SIDE = 32
"""Pixels to which larger images are reduced: what matters less to the eye than a copy's position."""

FLAT = 10.0
"""Grey levels; below this standard deviation an image counts as flat."""

CELLS = 6
"""Rows and columns of means that windows are first compared by."""

UNIT = 2047
"""Length of a window's means as a vector of whole numbers. Products are below 2^22 and factors below 2^11:
exact in float32, and in the TF32 of tensor cores."""

ENLARGED = (1, 16 / 15, 8 / 7, 5 / 4, 4 / 3)
"""How much a training image is enlarged to be found in a generated one that shows a part of it."""

BLUR = 1.5 / 32
"""Standard deviation, over the image's side, of a Gaussian filter on both images: sharpness and fine noise
of a copy count less."""

ROWS, COLUMNS, PAIRS = 512, 1024, 256
"""Most generated and training images, and most pairs of them, that are compared at a time."""

BYTES = 2**27
"""Most bytes of one side's images in float64; of large images fewer are compared at a time."""


@dataclass(frozen=True)
class Aligned:
    """How n images fit best to k others each."""

    distance: Floats
    """(n, k) sqrt(2 - 2 rho), in [0, 2]: 0 where one is the other, moved or cropped."""
    moved: Floats
    """(n, k, 2) rows and columns of pixels from the middle of the training image to what is in the middle of
    the generated one."""
    enlarged: Floats
    """(n, k) factor by which the generated image shows the training image larger, 1 or more."""


def nearest_pairs(
    images: Pixels, others: Images, count: int, left_out: Ints | None = None
) -> tuple[Ints, Bools]:
    """Return which of the others each image may be a copy of, by coarse means, and whether mirrored.

    Args:
        images: uint8 (n, C, H, W).
        others: uint8 (m, C, H, W).
        count: at most this many, k, of each; the mirrored and the upright one count as two.
        left_out: (n,) one of the others that is not compared with each image.

    Returns:
        (n, k) int64 and bool, the most alike first, and of equally alike ones the first.
    """
    most = min(count, 2 * (len(others) - (left_out is not None)))
    parts = [
        _nearest_of(images[rows], others, most, None if left_out is None else left_out[rows])
        for rows in _blocks(len(images), ROWS, images, copies=2)
    ]
    keys = torch.cat(parts).cpu().numpy()
    return keys // 2, keys % 2 == 1


def _nearest_of(images: Pixels, others: Images, count: int, left_out: Ints | None) -> Tensor:
    """Return 2 · index + mirrored of the `count` best of the others, (n, count)."""
    middle, whole = _searched(_on_device(np.concatenate([images, images[..., ::-1]])))
    best: Tensor | None = None
    for columns in _blocks(len(others), COLUMNS, others):
        moved, parts = _searched_in(_on_device(others[columns]))
        alike = reduce(
            torch.maximum,
            chain((middle @ y.T for y in moved), (whole @ y.T for y in parts)),
        )
        if left_out is not None:
            own = torch.from_numpy(left_out).to(alike.device).repeat(2) - columns.start
            rows = torch.nonzero((own >= 0) & (own < alike.shape[1]))[:, 0]
            alike[rows, own[rows]] = -torch.inf
        upright, mirrored = alike.double().chunk(2)
        keys = 2.0 * torch.arange(columns.start, columns.stop, device=alike.device).double()
        # One float64 holds both exactly, for at most 2^29 others: the product, and the key that settles ties.
        ranked = torch.stack([upright * 2**30 - keys, mirrored * 2**30 - keys - 1], 2).flatten(1)
        both = ranked if best is None else torch.cat([best, ranked], 1)
        best = both.topk(min(count, both.shape[1]), 1).values
    assert best is not None
    return (-best).remainder(2**30).long()


def aligned(images: Pixels, others: Images, nearest: Ints, mirrored: Bools) -> Aligned:
    """Return how images fit best to others.

    Args:
        images: uint8 (n, C, H, W).
        others: uint8 (m, C, H, W).
        nearest: (n, k) which others each image is compared with.
        mirrored: (n, k) whether it is mirrored for that.
    """
    n, k = nearest.shape
    parts = []
    for rows in _blocks(n, PAIRS // k, images, copies=k):
        own = images[rows].repeat(k, axis=0)
        flips = mirrored[rows].ravel()
        own[flips] = own[flips][..., ::-1]
        parts.append(_aligned(_on_device(own), _on_device(others[nearest[rows].ravel()])))
    distance, moved, enlarged = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return Aligned(distance.reshape(n, k), moved.reshape(n, k, 2), enlarged.reshape(n, k))


def _aligned(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return distance (n,), moved (n, 2) and enlarged (n,) of pairs (n, C, H, W)."""
    n, _, height, width = x.shape
    (full_h, margin_h), (full_w, margin_w) = (
        _side(height, width, height),
        _side(height, width, width),
    )
    rows, columns = full_h - 2 * margin_h, full_w - 2 * margin_w
    blur = BLUR * max(full_h, full_w)
    blurred = _scaled(x, full_h, full_w, blur).round()
    window = blurred[:, :, margin_h : margin_h + rows, margin_w : margin_w + columns]
    pixels = window[0].numel()
    mean = window.mean((1, 2, 3), keepdim=True)[:, 0]  # (n, 1, 1)
    variance = window.square().mean((1, 2, 3), keepdim=True)[:, 0] - mean.square() + FLAT**2
    best = x.new_full((n,), -torch.inf, dtype=torch.float64)
    moved, enlarged = best.new_zeros(n, 2), best.new_ones(n)
    spectra: dict[tuple[int, int], Tensor] = {}
    sizes = {(round(full_h * f), round(full_w * f)): f for f in reversed(ENLARGED)}
    for h, w in sorted(sizes):  # from 1 on: of equally good fits the simplest stays
        other = _scaled(y, h, w, blur).round()
        fast = -(-h // 8) * 8, -(-w // 8) * 8  # sizes that transform fast
        if fast not in spectra:
            spectra[fast] = torch.fft.rfft2(window, s=fast).conj()
        products = torch.fft.irfft2((torch.fft.rfft2(other, s=fast) * spectra[fast]).sum(1), s=fast)
        products = products[:, : h - rows + 1, : w - columns + 1].round() / pixels
        means = _window_sums(other, rows, columns) / pixels
        variances = _window_sums(other.square(), rows, columns) / pixels - means.square() + FLAT**2
        rho = (products - mean * means + FLAT**2) / (variance * variances).sqrt()
        likeness, position = rho.flatten(1).max(1)
        across = rho.shape[2]
        middle = torch.stack(
            [
                (position // across + rows / 2) * (height / h) - height / 2,
                (position % across + columns / 2) * (width / w) - width / 2,
            ],
            1,
        )
        better = likeness > best
        best = torch.where(better, likeness, best)
        moved = torch.where(better[:, None], middle, moved)
        enlarged = torch.where(better, h / full_h, enlarged)
    return (2 - 2 * best).clamp_min(0).sqrt(), moved, enlarged


def _window_sums(images: Tensor, rows: int, columns: int) -> Tensor:
    """Return the sums over all windows of (n, C, h, w), (n, h - rows + 1, w - columns + 1)."""
    sums = functional.pad(images.sum(1).cumsum(1).cumsum(2), (1, 0, 1, 0))
    below = sums[:, rows:] - sums[:, :-rows]
    return below[:, :, columns:] - below[:, :, :-columns]


def _searched(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of the middle and of the whole of images, each (n, C · CELLS^2 + 1)."""
    grids = _grids(images, 0)
    return _unit(grids[0][0]), _unit(grids[1][0])


def _searched_in(images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the means that the middle and the whole of others are compared with, nine of each."""
    moved, parts = _grids(images, 1)
    return [_unit(grid) for grid in moved], [_unit(grid) for grid in parts]


def _grids(images: Tensor, which: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the means (n, C, CELLS, CELLS) of both kinds of windows at each of their positions."""
    height, width = images.shape[2:]
    down, right = (
        [m.to(images.device) for m in _cells(height, width, size)[which]]
        for size in (height, width)
    )
    kinds = []
    for rows, columns in zip(down, right, strict=True):
        means = rows.flatten(0, 1) @ images.double() @ columns.flatten(0, 1).T
        split = means.unflatten(2, rows.shape[:2]).unflatten(4, columns.shape[:2])
        positions = product(range(rows.shape[0]), range(columns.shape[0]))
        kinds.append([split[:, :, i, :, j] for i, j in positions])
    return kinds[0], kinds[1]


def _unit(means: Tensor) -> Tensor:
    """Return (n, C, k, k) means as vectors of whole numbers, whose products are about UNIT^2 · rho.

    A further component FLAT stands for the noise that all images have in common.
    """
    flat = means.flatten(1)
    deviations = (flat - flat.mean(1, keepdim=True)) / flat.shape[1] ** 0.5
    extended = functional.pad(deviations, (0, 1), value=FLAT)
    lengths = extended.square().sum(1, keepdim=True).sqrt()
    return (extended * (UNIT / lengths)).round().float()


@cache
def _cells(height: int, width: int, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return what takes means along one side of `size` pixels, (positions, cells, size) each.

    Returns:
        For the images that are searched: of the middle, and of the whole. For those that are searched in:
        of the middle moved a little to both sides, and of parts.
    """
    side, margin = _side(height, width, size)
    middle, step = side - 2 * margin, min(margin, max(1, round(3 * side / 32)))
    part = side - 3 * margin // 2
    cells = min(CELLS, middle)

    def means(starts: list[float], length: int) -> Tensor:
        edges = [
            torch.tensor(start, dtype=torch.float64) + length / cells * torch.arange(cells + 1)
            for start in starts
        ]
        pixel = torch.arange(side, dtype=torch.float64)
        shares = [
            (torch.minimum(e[1:, None], pixel + 1) - torch.maximum(e[:-1, None], pixel)).clamp_min(
                0
            )
            for e in edges
        ]
        return torch.stack(shares) * (cells / length) @ _scaling(size, side, 0)

    return (
        [means([margin], middle), means([0], side)],
        [
            means([margin - step, margin, margin + step], middle),
            means([0, (side - part) / 2, side - part], part),
        ],
    )


def _side(height: int, width: int, size: int) -> tuple[int, int]:
    """Return to how many pixels a side of `size` is reduced, and how wide the margin of a window is."""
    side = max(1, round(size * min(1, SIDE / max(height, width))))
    return side, side // 8


def _scaled(images: Tensor, height: int, width: int, blur: float) -> Tensor:
    """Return (n, C, H, W) images in another size, blurred, float64."""
    down, right = (
        _scaling(old, new, blur).to(images.device)
        for old, new in zip(images.shape[2:], (height, width), strict=True)
    )
    return down @ images.double() @ right.T


@cache
def _scaling(old: int, new: int, blur: float) -> Tensor:
    """Return the matrix (new, old) that resizes one side of an image and blurs it."""
    matrix = torch.eye(old, dtype=torch.float64)
    if new != old:
        mode = "bicubic" if new > old else "bilinear"
        matrix = functional.interpolate(
            matrix[None, None], (new, old), mode=mode, antialias=new < old, align_corners=False
        )[0, 0]
    if blur:
        reach = round(3 * blur)
        weights = torch.exp(-torch.arange(-reach, reach + 1).double().square() / (2 * blur**2))
        columns = functional.pad(matrix.T[:, None], (reach, reach), mode="replicate")
        kernel = (weights / weights.sum())[None, None]
        matrix = functional.conv1d(columns, kernel)[:, 0].T
    return matrix.contiguous()


def _on_device(images: Pixels) -> Tensor:
    return torch.from_numpy(np.array(images)).to(choose_device())  # a copy: some are read-only maps


def _blocks(n: int, most: int, images: Images, copies: int = 1) -> Iterator[slice]:
    """Yield the rows of n, at most so many at a time, and no more than fit, `copies` of each."""
    size = max(1, min(most, BYTES // (8 * copies * int(np.prod(images.shape[1:])))))
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
