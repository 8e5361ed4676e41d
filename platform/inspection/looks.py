"""Decoded images, small: what only the pixels tell, of all images or of a sample of each class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...trainers.data.packed import Indices, Pixels
from ...trainers.data.pixels import opaque, open_image, upright
from .headers import SIDE, Headers, reason
from .listing import Encoded, Listing

ALL_BELOW = 2000
"""Images of which every one is decoded, however large they are."""
MOST = 25_000
"""Images that are decoded by default; their comparison by pairs takes some 10 s of one core."""
MOST_PIXELS = 6e9
"""Pixels that are decoded by default: about 30 s of one core, as JPEGs."""
ONE_COLOUR = 2
"""Largest difference of values, 0 to 255, in an image of one colour; JPEG adds one or two."""
BATCH = 128
"""Images that are given to the threads at a time."""
DRAFT = 2 * SIDE
"""JPEGs may be decoded at an eighth to a half of their size, but not below this: it takes half the time."""


@dataclass(eq=False)
class Looks:
    """M images that were looked into.

    Args:
        indices: (M,) int64, of the images, ascending.
        small: (M, 32, 32, 3) uint8, the centre squares, upright, on white.
        one_colour: (M,) bool.
        transparent: (M,) bool, some pixels are transparent.
        broken: why an image cannot be decoded, by index; it is not among the M.
    """

    indices: Indices
    small: Pixels
    one_colour: NDArray[np.bool_]
    transparent: NDArray[np.bool_]
    broken: dict[int, str] = field(default_factory=dict)


def choose_images(listing: Listing, headers: Headers, thorough: bool) -> Indices:
    """Return the indices of the images to decode: all, or as many of each class as there is time for.

    Within a class the hash of its bytes chooses, so that an image stays chosen when others are added.
    """
    readable = np.setdiff1d(headers.readable(), headers.deep)
    pixels = float(headers.size[readable].astype(np.int64).prod(axis=1).sum())
    budget = int(min(MOST, len(readable) * MOST_PIXELS / max(pixels, 1.0)))
    if thorough or len(readable) <= max(budget, ALL_BELOW):
        return readable
    labels, hashes = listing.labels[readable], headers.content[readable, 1]
    order = np.lexsort((hashes, labels))
    counts = np.bincount(labels, minlength=len(listing.class_names))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    each = _largest_share(counts, max(budget, ALL_BELOW))
    return np.sort(readable[order[rank < each]])


def _largest_share(counts: Indices, budget: int) -> int:
    """Return the most images a class may have if all classes together have at most `budget`."""
    low, high = 1, int(counts.max())
    while low < high:
        middle = (low + high + 1) // 2
        if np.minimum(counts, middle).sum() <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def look_into(listing: Listing, indices: Indices, on_progress: Callable[[int], None]) -> Looks:
    """Decode images in threads (Pillow releases the interpreter's lock), each to a small one.

    Args:
        indices: ascending.
        on_progress: gets the number of images that were decoded.
    """
    small = np.zeros((len(indices), SIDE, SIDE, 3), np.uint8)
    flags = np.zeros((2, len(indices)), bool)
    broken: dict[int, str] = {}
    waiting = listing.open(indices)
    done = 0
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        warnings.simplefilter("ignore")  # of Pillow: large images, damaged EXIF data
        while batch := list(islice(waiting, BATCH)):
            looks = pool.map(_look, [encoded for _, encoded in batch])
            for (index, _), look in zip(batch, looks, strict=True):
                if isinstance(look, str):
                    broken[index] = look
                else:
                    small[done], *flags[:, done] = look
                done += 1
            on_progress(done)
    if broken:
        kept = ~np.isin(indices, list(broken))
        indices, small, flags = indices[kept], small[kept], flags[:, kept]
    return Looks(indices, small, flags[0], flags[1], broken)


def _look(encoded: Encoded) -> tuple[Pixels, bool, bool] | str:
    """Return the small image, whether it has one colour and transparent pixels; or why it has none."""
    try:
        with open_image(encoded, SIDE) as image:
            image.draft(None, (DRAFT, DRAFT))
            image.load()
            turned = upright(image)
            flat = opaque(turned)
            colours = flat.convert("RGB")
        side = min(colours.size)
        left, top = (colours.width - side) // 2, (colours.height - side) // 2
        square = colours.resize(
            (SIDE, SIDE),
            Image.Resampling.BICUBIC,
            (left, top, left + side, top + side),
            reducing_gap=2.0,
        )
        one = bool(np.ptp(colours.getextrema(), axis=1).max() <= ONE_COLOUR)
        return np.asarray(square), one, flat is not turned
    except Exception as error:  # noqa: BLE001  (a damaged file makes PIL raise almost anything)
        return reason(error)
