"""The files of decoded images in the cache: rows that are decoded piece by piece, and what is known of each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..integrity import DIGEST_BYTES, Altered, seal_text, unseal_text
from ..whole_files import whole_file
from .packed import FingerprintCache, Indices, Pixels
from .row_store import RowStore, open_rows

KNOWN = "known.bin"
"""Hashes (N,) uint64, treatments (N,) uint8, and the SHA-256 of each piece."""
LEAST_ROWS, MOST_ROWS, PIECES = 64, 1024, 256
"""Of a piece, and pieces in between: small enough for all cores to be busy to the end, and to be lost."""


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Images of one split as pixels.

    Args:
        pixels: (N, C, H, W) uint8, a read-only memory map.
        treatments: (N,) uint8, what was done to each image, the sum of its `Treatment`s.
        hashes: (N,) uint64, of the pixels of each.
        folder: where they are kept; None where they are not.
        content: hash over all of them, where they are kept.
    """

    pixels: Pixels
    treatments: Pixels
    hashes: NDArray[np.uint64]
    folder: Path | None = None
    content: str = ""

    def known(self, rows: slice) -> FingerprintCache | None:
        """Return what keeps the fingerprint of a block of the images; None where they are not kept."""
        if self.folder is None:
            return None
        return KeptFingerprint(self.folder, f"{self.content} {rows.start} {rows.stop}")


@dataclass(frozen=True)
class KeptFingerprint:
    """A fingerprint beside the images that it is of.

    Args:
        folder: of the images.
        content: which of them these are.
    """

    folder: Path
    content: str

    def get(self, labels: Indices, class_names: tuple[str, ...], compute: Callable[[], str]) -> str:
        """Return the fingerprint with these labels; it is computed once."""
        digest = hashlib.sha256(repr((self.content, class_names)).encode())
        digest.update(labels.tobytes())
        file = self.folder / f"{digest.hexdigest()[:32]}.fingerprint"
        with suppress(OSError, Altered, UnicodeDecodeError):
            return unseal_text(file.read_text())
        fingerprint = compute()
        with suppress(OSError), whole_file(file) as stream:  # computed again the next time
            stream.write(seal_text(fingerprint).encode())
        return fingerprint


def hash_of(pixels: Pixels) -> bytes:
    """Return the hash of an image's pixels, C-contiguous, 8 bytes."""
    return hashlib.blake2b(pixels.data, digest_size=8).digest()


class DecodedStore:
    """The decoded images of one cache entry.

    Args:
        folder: of the entry; created when needed.
        shape: (N, C, H, W).

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int, int]) -> None:
        self.folder, self.shape = folder, shape
        count = shape[0]
        each = min(MOST_ROWS, max(LEAST_ROWS, -(-count // PIECES)))
        firsts = np.append(np.arange(0, count, each), count)
        self.rows: RowStore = open_rows(folder, firsts, int(np.prod(shape[1:])))
        size = count * 9 + self.rows.pieces * DIGEST_BYTES
        file = folder / KNOWN
        if not file.exists() or file.stat().st_size != size:
            with file.open("ab") as stream:
                stream.truncate(size)
                os.posix_fallocate(
                    stream.fileno(), 0, size
                )  # a full disk would end the process otherwise
        mode = "r+" if os.access(file, os.W_OK) else "r"
        whole = np.memmap(file, np.uint8, mode)  # type: ignore[call-overload]
        self.hashes: NDArray[np.uint64] = whole[: 8 * count].view(np.uint64)
        self.treatments: Pixels = whole[8 * count : 9 * count]
        self._digests: Pixels = whole[9 * count :].reshape(self.rows.pieces, DIGEST_BYTES)

    def put(self, index: int, pixels: Pixels, treatment: int) -> None:
        """Write an image (C, H, W).

        Raises:
            OSError: it cannot be written.
        """
        self.rows.write(index, pixels.data.cast("B"))
        self.treatments[index] = treatment
        self.hashes[index] = np.frombuffer(hash_of(pixels), np.uint64)[0]

    def is_right(self, piece: int) -> bool:
        """Return whether a piece that was written is still what was written."""
        return bool(self._digests[piece].tobytes() == self._digest(piece))

    def finish(self, piece: int) -> None:
        """Say of a piece that it is written, with what is known of its images."""
        self._digests[piece] = np.frombuffer(self._digest(piece), np.uint8)
        self.rows.mark(piece)

    def images(self) -> DecodedImages:
        """Return all images, when every piece is ready."""
        _, *image_shape = self.shape
        channels, height, width = image_shape
        return DecodedImages(
            self.rows.array((channels, height, width)),
            np.array(self.treatments),
            np.array(self.hashes),
            self.folder,
            hashlib.sha256(self._digests.tobytes()).hexdigest(),
        )

    def _digest(self, piece: int) -> bytes:
        rows = self.rows.rows_of(piece)
        digest = hashlib.sha256(self.rows.read(rows))
        digest.update(self.hashes[rows].tobytes())
        digest.update(self.treatments[rows].tobytes())
        return digest.digest()
