"""The file of decoded images: a raw array, its hash, and what is known of each image beside it."""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..integrity import DIGEST_BYTES, Altered, load_arrays, save_arrays
from .packed import Pixels

STALE_S = 24 * 3600
"""Age at which an unfinished cache file is removed: no run decodes that long, so it was killed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Images of one split as pixels.

    Args:
        pixels: (N, C, H, W) uint8, a read-only memory map.
        treatments: (N,) uint8, what was done to each image, the sum of its `Treatment`s.
        hashes: (N,) uint64, of the pixels of each.
    """

    pixels: Pixels
    treatments: Pixels
    hashes: NDArray[np.uint64]


def read_decoded(path: Path, shape: tuple[int, ...]) -> DecodedImages | None:
    """Return finished images; None where they are absent, cut short or not what was written."""
    if not path.exists():
        return None
    with suppress(OSError, ValueError, EOFError, KeyError, Altered):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        fits = array.shape == shape and array.dtype == np.uint8 and array.flags.c_contiguous
        if fits and hashlib.sha256(array.data).digest() == _stored_digest(path):
            known = load_arrays(_known_of(path))
            treatments, hashes = known["treatments"], known["hashes"]
            if len(treatments) == len(hashes) == len(array):
                return DecodedImages(array.view(np.ndarray), treatments, hashes)
    log.warning("%s: decoded images are damaged; decoding them again", path)
    return None


def _known_of(path: Path) -> Path:
    """Return the file of what is known of each image of an array."""
    return path.with_suffix(".safetensors")


def _stored_digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        stream.seek(-DIGEST_BYTES, os.SEEK_END)
        return stream.read()


def write_decoded(
    path: Path, images: Iterator[tuple[Pixels, int, bytes]], shape: tuple[int, ...]
) -> None:
    """Write an array row by row, and what is known of its images, each under a temporary name first."""
    for left in path.parent.glob("*.partial"):
        if time.time() - left.stat().st_mtime > STALE_S:
            left.unlink(missing_ok=True)
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")  # workers may write at once
    known = partial.with_suffix(".known.partial")
    treatments, hashes = np.zeros(shape[0], np.uint8), bytearray()
    try:
        with partial.open("wb") as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            digest = hashlib.sha256()
            for index, (image, treatment, image_hash) in enumerate(images):
                stream.write(image.data)
                digest.update(image.data)
                treatments[index] = treatment
                hashes += image_hash
            stream.write(digest.digest())  # after the array, where `np.load` does not look
            stream.flush()
            os.fsync(stream.fileno())
        per_image: dict[str, NDArray[Any]] = {
            "treatments": treatments,
            "hashes": np.frombuffer(hashes, np.uint64),
        }
        save_arrays(per_image, known)
        known.replace(_known_of(path))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        known.unlink(missing_ok=True)
