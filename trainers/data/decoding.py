"""Decoding of image files, once, into an array on disk that later runs map into memory."""

from __future__ import annotations

import hashlib
import math
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..disk import disk_problem
from ..errors import DataProblem
from ..integrity import Altered, load_arrays, save_arrays
from .decoded import DecodedImages, read_decoded, write_decoded
from .encoded import EncodedImages, FileState
from .packed import Indices, Pixels
from .pixels import read_pixels, without_size_warnings
from .report import raise_together

FORMAT = 4
"""Part of every cache key: raise it when decoding gives other pixels, or a file another layout."""
HASH_BYTES = 8
"""Of the hashes of an image's bytes and of its pixels: among a million images two are alike by chance once
in 10^7."""
CHUNK = 4096
"""Images given to the threads at a time, which bounds the memory."""
SETTLED_S = 2.0
"""Age of a file's last change from which its times tell of a further one: they advance in steps, of up
to 2 s on file systems in use."""

UNREAD = Path(os.devnull)
"""A cache folder that says: decode nothing and write nothing, only check that the files are there; they are
read where what is asked for depends on their bytes."""


@dataclass(frozen=True, eq=False)
class Contents:
    """What the images of one split were when they were hashed.

    Args:
        hashes: (N,) uint64, the first 8 bytes of the SHA-256 of each image's own bytes.
        files: size, times, inode and device of each, empty for images that are not files.
    """

    hashes: NDArray[np.uint64]
    files: list[FileState]

    def select(self, indices: Indices) -> Contents:
        """Return those of the images at `indices` (M,), in that order."""
        return Contents(
            self.hashes[indices], [self.files[i] for i in indices] if self.files else []
        )


def read_contents(encoded: EncodedImages, cache: Path) -> Contents:
    """Return the hash of each image's own bytes.

    Files are read only when they are new, or when one has changed since: 13 GB at every start for
    ImageNet-LT. So the hashes are kept under the hash of what `EncodedImages.states` says. Not that description
    in the place of the hashes: then a copied or moved data set would be decoded again.

    Args:
        cache: folder that they are kept in; created when needed, not for `UNREAD`.

    Raises:
        DataProblem: an image that is missing.
        DiskProblem: a cache that cannot be written.
    """
    files = encoded.states()
    if not files:
        return Contents(_hash_all(encoded), files)
    unchanged = repr((FORMAT, encoded.where, encoded.items, files))
    kept = cache / f"{hashlib.sha256(unchanged.encode()).hexdigest()[:32]}.key"
    with suppress(OSError, KeyError, Altered):
        return Contents(load_arrays(kept)["hashes"], files)
    hashes = _hash_all(encoded)
    if cache != UNREAD and _are_settled(encoded, files):
        partial = kept.with_suffix(f".{uuid.uuid4().hex}.partial")
        try:
            cache.mkdir(parents=True, exist_ok=True)
            save_arrays({"hashes": hashes}, partial)
            partial.replace(kept)
        except OSError as error:
            raise disk_problem(error, cache, hashes.nbytes) from error
    return Contents(hashes, files)


def decode(
    encoded: EncodedImages,
    size: int,
    channels: Literal[1, 3],
    cache: Path,
    contents: Contents | None = None,
) -> DecodedImages:
    """Return all images as (N, channels, size, size) uint8, from the cache or decoded in threads.

    A cached array gets its name only when it is complete, and is followed by its hash, which is checked
    here; what is known of each image lies beside it. Its key are the hashes of the bytes of all images.

    Args:
        cache: folder of the arrays; created when needed.
        contents: what `read_contents` gives, where it is known already.

    Returns:
        Read-only memory maps; for the cache `UNREAD`, black images of the same shape, all with a hash of
        their own.

    Raises:
        DataProblem: an image that is missing, damaged or changed meanwhile.
        DiskProblem: a cache that cannot be written.
    """
    shape = (len(encoded.items), channels, size, size)
    if cache == UNREAD:
        if contents is None:
            encoded.states()
        hashes = np.random.default_rng().integers(0, 2**63, shape[0], np.uint64)
        return DecodedImages(np.zeros(shape, np.uint8), np.zeros(shape[0], np.uint8), hashes)
    if contents is None:
        contents = read_contents(encoded, cache)
    key = hashlib.sha256(repr(FORMAT).encode() + contents.hashes.tobytes()).hexdigest()[:32]
    path = cache / f"{key}-{channels}x{size}.npy"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if (cached := read_decoded(path, shape)) is not None:
            return cached
        with without_size_warnings():
            write_decoded(path, _decode_all(encoded, size, channels), shape)
    except OSError as error:
        raise disk_problem(error, cache, math.prod(shape)) from error
    if encoded.states() != contents.files:  # the pixels may not be those of the key
        path.unlink(missing_ok=True)
        raise DataProblem(
            f"{encoded.root}: images were changed while they were read",
            "try again when that is over",
        )
    written = read_decoded(path, shape)
    if written is None:
        raise DataProblem(f"{path}: was damaged as it was written", "check the disk, and try again")
    return written


def _are_settled(encoded: EncodedImages, files: list[FileState]) -> bool:
    """Return whether a further change of any file would show in its state."""
    if not isinstance(encoded.root, Path):
        return True
    newest = max(max(int(mtime), int(ctime)) for _, mtime, ctime, *_ in files) / 1e9
    return time.time() - newest > SETTLED_S


def _hash_all(encoded: EncodedImages) -> NDArray[np.uint64]:
    """Return the hash of each image's bytes, (N,), read in threads."""
    hashes = np.empty(len(encoded.items), np.uint64)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(hashes), CHUNK):
            chunk = range(start, min(start + CHUNK, len(hashes)))
            content = b"".join(pool.map(lambda i: _hash_one(encoded, i), chunk))
            hashes[start : chunk.stop] = np.frombuffer(content, "<u8")
    return hashes


def _hash_one(encoded: EncodedImages, index: int) -> bytes:
    item = encoded.items[index]
    if isinstance(item, bytes):
        return hashlib.sha256(item).digest()[:HASH_BYTES]
    if not (isinstance(item, str) and isinstance(encoded.root, Path)):
        return hashlib.sha256(encoded.read(index)).digest()[:HASH_BYTES]
    try:
        with (encoded.root / item).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()[:HASH_BYTES]
    except OSError as error:
        raise encoded.missing(index, error) from error


def _decode_all(
    encoded: EncodedImages, size: int, channels: Literal[1, 3]
) -> Iterator[tuple[Pixels, int, bytes]]:
    """Yield pixels, treatment and hash of each image; PIL releases the interpreter's lock."""

    def decode_one(index: int) -> tuple[Pixels, int, bytes] | DataProblem:
        try:
            pixels, done = read_pixels(encoded.open(index), encoded.name(index), size, channels)
        except DataProblem as problem:
            return problem
        return pixels, done, hashlib.blake2b(pixels.data, digest_size=HASH_BYTES).digest()

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(encoded.items), CHUNK):
            chunk = range(start, min(start + CHUNK, len(encoded.items)))
            problems = []
            for result in pool.map(decode_one, chunk):
                if isinstance(result, DataProblem):
                    problems.append(result)
                elif not problems:
                    yield result
            raise_together(problems)
