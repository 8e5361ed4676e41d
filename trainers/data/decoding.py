"""Decoding of image files, once, into an array on disk that later runs map into memory."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..disk import disk_problem, writing
from ..errors import DataProblem
from ..integrity import Altered, load_arrays, save_arrays
from ..whole_files import whole_file
from .decoded import DecodedImages, DecodedStore
from .encoded import EncodedImages, FileState
from .filling import Filling
from .packed import Indices
from .pixels import read_pixels, without_size_warnings
from .progress import Count, OnPhase, quiet
from .report import raise_together

FORMAT = 5
"""Part of every cache key: raise it when decoding gives other pixels, or a file another layout."""
HASH_BYTES = 8
"""Of the hashes of an image's bytes and of its pixels: among a million images two are alike by chance once
in 10^7."""
CHUNK = 4096
"""Images given to the threads at a time to be hashed."""
WAITING = 4
"""Threads beyond the cores: some wait for a disk or a bucket."""
AT_ONCE = 2
"""Pieces of a process: no thread waits for the last image of one. Rows of Parquet files are read in their order."""
SETTLED_S = 2.0
"""Age of a file's last change from which its times tell of a further one: they advance in steps, of up
to 2 s on file systems in use."""

UNREAD = Path(os.devnull)
"""A cache folder that says: decode nothing and write nothing, only check that the files are there; they are
read where what is asked for depends on their bytes."""

log = logging.getLogger(__name__)


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
        with writing(cache, hashes.nbytes), whole_file(kept) as stream:
            save_arrays({"hashes": hashes}, Path(stream.name))
    return Contents(hashes, files)


def decode(
    encoded: EncodedImages,
    size: int,
    channels: int,
    cache: Path,
    contents: Contents | None = None,
    on_phase: OnPhase = quiet,
) -> DecodedImages:
    """Return all images as (N, channels, size, size) uint8, from the cache or decoded.

    All processes of the machine that need them decode them together, some images at a time, and map the same
    file; what a killed one had finished stays. Their key is the hashes of the bytes of all images.

    Args:
        channels: 1 for grey, 3 for colours.
        cache: folder of the arrays; created when needed.
        contents: what `read_contents` gives, where it is known already.
        on_phase: takes lines that say how far it is.

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
        on_phase("reading the images' bytes, to know whether they are decoded already")
        contents = read_contents(encoded, cache)
    key = hashlib.sha256(repr(FORMAT).encode() + contents.hashes.tobytes()).hexdigest()[:32]
    folder = cache / f"{key}-{channels}x{size}"
    try:
        store = DecodedStore(folder, shape)
        if not store.rows.is_whole:
            _fill(store, encoded, on_phase)
            if encoded.states() != contents.files:  # the pixels may not be those of the key
                store.rows.forget()
                raise DataProblem(
                    f"{encoded.where}: images were changed while they were read",
                    "try again when that is over",
                )
        return store.images()
    except OSError as error:
        raise disk_problem(error, cache, math.prod(shape)) from error


def _fill(store: DecodedStore, encoded: EncodedImages, on_phase: OnPhase) -> None:
    """Decode what is missing, together with other processes that do."""
    _, channels, size, _ = store.shape

    def decode_one(index: int) -> DataProblem | None:
        if filling.is_over:
            return None
        try:  # PIL releases the interpreter's lock
            pixels, done = read_pixels(encoded.open(index), encoded.name(index), size, channels)
        except DataProblem as problem:
            return problem
        store.put(index, pixels, done)
        return None

    def make(piece: int) -> None:
        if store.rows.is_written(piece):
            if store.is_right(piece):
                store.rows.mark(piece)
                return
            log.warning("%s: decoded images are damaged; decoding them again", store.folder)
        rows = store.rows.rows_of(piece)
        problems = list(pool.map(decode_one, range(rows.start, rows.stop)))
        raise_together([problem for problem in problems if problem is not None])
        if not filling.is_over:
            store.finish(piece)

    filling = Filling(store.rows, make, AT_ONCE)
    count = Count(on_phase, "decoding images", store.rows.rows, store.rows.rows_ready)
    threads = ThreadPoolExecutor(usable_cores() + WAITING)
    with without_size_warnings(), threads as pool, filling:
        filling.wait_for(while_waiting=lambda: count.at(store.rows.rows_ready))


def usable_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
