"""Pairs of images that are near copies: compressed, resized, cut by some pixels, brighter, mirrored.

Two steps. First every pair is compared by the correlation of 16 x 16 grey values, slightly blurred, with the
mirrored image too. Pairs above `CANDIDATE` are then compared by a least-squares fit of one image to the other
(32 x 32), which may change contrast and brightness and move, stretch or turn it a little: to first order
b = w_0 a + (the moved a: a_x, a_y, x a_x, y a_y, y a_x, x a_y) w + constant. What is left over, as a share of
b's fine structure, is small for copies only.

Calibrated on CIFAR-10 (32 pixels), copies of 1500 images: found were all that were mirrored or resized to 24 or 77
pixels, over 99.9 % of those compressed by JPEG at quality 50 or 30, 99.6 % of those cut by 1 pixel on two or on
four sides (99.7 % if also mirrored and compressed), 99.5 % of those 20 % brighter, 96 % of those halved in size, 8 %
of those cut by 2 of 32 pixels. Among the 22,406 images of CIFAR-10-LT, 291 are named a copy of another one, and
220 among the 20,847 of CIFAR-100-LT, which took no part in the calibration. 140 of each were looked at: in CIFAR-10
all are one photograph in two versions, in CIFAR-100 all but about ten, which are simple shapes on white (apples,
bottles).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ...trainers.data.packed import Indices, Pixels

Floats = NDArray[np.float32]

CANDIDATE = 0.9
"""Correlation from which a pair is compared closely; 99 % of copies cut by 1 of 32 pixels have 0.927."""
GREY, COLOUR = 0.35, 1.0
"""Shares left over, below which a pair is a copy; colour alone would lose copies compressed by JPEG."""
NOISE = 16.0
"""Variance, in squared values of 0 to 255, that is no structure: even skies differ by it."""
NEIGHBOURS = 5
"""Pairs of one image that are compared closely."""
ROWS = 256
"""Images of a block of the comparison by pairs."""
PAIRS = 256
"""Pairs that are fitted at once."""
MARGIN = 2
"""Pixels at the border that the fit leaves out: a moved image has none to show there."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def near_pairs(small: Pixels, on_progress: Callable[[int], None] = lambda _: None) -> Indices:
    """Return the pairs of near copies, (number of pairs, 2) int64, the lower index first.

    Args:
        small: (M, 32, 32, 3) uint8.
        on_progress: gets the number of images that were compared with all others.
    """
    pairs = [np.zeros((0, 2), np.int64)]
    for rows, columns, mirrored in _candidates(small, on_progress):
        for start in range(0, len(rows), PAIRS):
            part = slice(start, start + PAIRS)
            ours, theirs = small[rows[part]], small[columns[part]]
            theirs = np.where(mirrored[part, None, None, None], theirs[:, :, ::-1], theirs)
            same = left_over(ours @ LUMA[:, None], theirs @ LUMA[:, None]) < GREY
            same[same] = left_over(ours[same], theirs[same]) < COLOUR
            pairs.append(np.stack([rows[part][same], columns[part][same]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def _candidates(
    small: Pixels, on_progress: Callable[[int], None]
) -> Iterator[tuple[Indices, Indices, NDArray[np.bool_]]]:
    """Yield rows, columns and whether the second one is mirrored, of pairs alike at first sight."""
    ours, mirrored = _describe(small), _describe(small[:, :, ::-1])
    for start in range(0, len(ours), ROWS):
        block = ours[start : start + ROWS]
        for theirs in (ours, mirrored):
            alike = block @ theirs[start:].T
            earlier = np.arange(alike.shape[1]) <= np.arange(len(block))[:, None]
            alike[earlier] = -1.0  # itself, and pairs that were compared the other way round
            if alike.shape[1] > NEIGHBOURS:
                least = np.partition(alike, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS, None]
                alike[alike < least] = -1.0
            rows, columns = np.nonzero(alike > CANDIDATE)
            yield rows + start, columns + start, np.full(len(rows), theirs is mirrored)
        on_progress(min(start + ROWS, len(ours)))


def _describe(small: Pixels) -> Floats:
    """Return 16 x 16 grey values of mean 0 and norm 1, (M, 256)."""
    parts = [np.zeros((0, 256), np.float32)]
    for start in range(0, len(small), ROWS):
        grey = small[start : start + ROWS] @ LUMA
        halved = grey.reshape(len(grey), 16, 2, 16, 2).mean((2, 4))
        flat = _blur(halved[..., None]).reshape(len(grey), -1)
        flat -= flat.mean(axis=1, keepdims=True)
        parts.append(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-3))
    return np.concatenate(parts)


def _blur(images: NDArray[np.generic]) -> Floats:
    """Return images (M, H, W, C) after the kernel [1 2 1] / 4 in both directions."""
    padded: Floats = np.pad(
        images.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"
    )
    down = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / np.float32(4)
    blurred: Floats = (down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]) / np.float32(4)
    return blurred


def left_over(ours: NDArray[np.generic], theirs: NDArray[np.generic]) -> Floats:
    """Return what of the second images the first ones, moved a little, do not explain.

    Args:
        ours: (K, 32, 32, C), values of 0 to 255.
        theirs: the same shape.

    Returns:
        (K,): the mean square of what is left over, divided by the variance of the second image's fine
        structure (itself minus itself blurred) plus `NOISE`.
    """
    if not len(ours):
        return np.zeros(0, np.float32)
    a, b = _blur(ours), _blur(theirs)
    position = np.linspace(-1, 1, a.shape[1], dtype=np.float32)
    y, x = position[:, None, None], position[:, None]
    down, right = (np.asarray(np.gradient(a, axis=axis)) for axis in (1, 2))
    inside = (slice(None), slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    moves = (a, right, down, right * x, down * y, right * y, down * x)
    terms: Floats = np.stack([_centred(move[inside]) for move in moves], axis=-1)
    values = _centred(b[inside])
    squares = terms.transpose(0, 2, 1) @ terms + 1e-3 * np.eye(len(moves), dtype=np.float32)
    weights = np.linalg.solve(squares, terms.transpose(0, 2, 1) @ values[..., None])
    rest = values - (terms @ weights)[..., 0]
    coarse = b
    for _ in range(8):
        coarse = _blur(coarse)
    fine = ((b - coarse)[inside] ** 2).mean(axis=(1, 2, 3))
    share: Floats = (rest**2).mean(axis=1) / (fine + NOISE)
    return share


def _centred(images: Floats) -> Floats:
    """Return images (K, H, W, C) without the mean of each channel, (K, H W C)."""
    centred: Floats = images - images.mean(axis=(1, 2), keepdims=True)
    flat: Floats = centred.reshape(len(images), -1)
    return flat
