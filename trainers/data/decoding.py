"""Decoding of image files, once, into an array on disk that later runs map into memory."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..disk import disk_problem
from ..errors import DataProblem
from ..integrity import DIGEST_BYTES, Altered, load_arrays, save_arrays, seal, unseal
from .packed import Indices, Pixels
from .pixels import read_pixels
from .report import LISTED, Note, raise_together, shown

FORMAT = 3
"""Part of every cache key: raise it when decoding gives other pixels, or a file another layout."""
HASH_BYTES = 8
"""Of the hash of an image's pixels: among a million images two are alike by chance once in 10^7."""
PATH_SHOWN = 300
"""Characters of a path that an error repeats."""
CHUNK = 4096
"""Images given to the threads at a time, which bounds the memory."""
STALE_S = 24 * 3600
"""Age at which an unfinished cache file is removed: no run decodes that long, so it was killed."""
SETTLED_S = 2.0
"""Age of a file's last change from which its times tell of a further one: they advance in steps, of up
to 2 s on file systems in use."""

UNREAD = Path(os.devnull)
"""A cache folder that says: only check that the files are there, decode none and write nothing."""

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


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Labelled images of one split, as files or as bytes.

    Args:
        items: paths relative to `root`, or the encoded bytes.
        labels: (N,) int64.
        name: gives what error messages call the image at an index: its file, line or row.
        root: folder of the paths.
        notes: what was found beside them.
    """

    items: Sequence[str | bytes]
    labels: Indices
    name: Callable[[int], str]
    root: Path = Path()
    notes: tuple[Note, ...] = ()

    def select(self, indices: Indices) -> EncodedImages:
        """Return the images at `indices` (M,), in that order, under their own names."""
        return EncodedImages(
            [self.items[i] for i in indices],
            self.labels[indices],
            lambda i: self.name(int(indices[i])),
            self.root,
        )

    def open(self, index: int) -> Path | io.BytesIO:
        """Return what PIL reads the image at `index` from."""
        item = self.items[index]
        return io.BytesIO(item) if isinstance(item, bytes) else self.root / item


def decode(
    encoded: EncodedImages, size: int, channels: Literal[1, 3], cache: Path
) -> DecodedImages:
    """Return all images as (N, channels, size, size) uint8, from the cache or decoded in threads.

    A cached array gets its name only when it is complete, and is followed by its hash, which is checked
    here; what is known of each image lies beside it. Its key is the content: the bytes of all images. Files
    are read for it only when they are new, or when one has changed since.

    Args:
        cache: folder of the arrays; created when needed.

    Returns:
        Read-only memory maps; for the cache `UNREAD`, black images of the same shape, all with a hash of
        their own.

    Raises:
        DataProblem: an image that is missing, damaged or changed meanwhile.
        DiskProblem: a cache that cannot be written.
    """
    shape = (len(encoded.items), channels, size, size)
    files = _describe_files(encoded)
    if cache == UNREAD:
        hashes = np.random.default_rng().integers(0, 2**63, shape[0], np.uint64)
        return DecodedImages(np.zeros(shape, np.uint8), np.zeros(shape[0], np.uint8), hashes)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        path = cache / f"{_content_key(encoded, files, cache)}-{channels}x{size}.npy"
        if (cached := _read(path, shape)) is not None:
            return cached
        _write(path, _decode_all(encoded, size, channels), shape)
    except OSError as error:
        raise disk_problem(error, cache, math.prod(shape)) from error
    if _describe_files(encoded) != files:  # the pixels may not be those of the key
        path.unlink(missing_ok=True)
        raise DataProblem(
            f"{encoded.root}: images were changed while they were read",
            "try again when that is over",
        )
    written = _read(path, shape)
    if written is None:
        raise DataProblem(f"{path}: was damaged as it was written", "check the disk, and try again")
    return written


def _describe_files(encoded: EncodedImages) -> list[tuple[int, ...]]:
    """Return size, times, inode and device of each image that is a file.

    The time of the last change of the inode cannot be set, unlike that of the content: a file that was
    replaced or written in place has another one, whatever tar, rsync or cp -p made of the rest.
    """
    described: list[tuple[int, ...]] = []
    problems: list[DataProblem] = []
    more = 0
    for index, item in enumerate(encoded.items):
        if isinstance(item, bytes):
            continue
        try:
            stat = (encoded.root / item).stat()
            if S_ISREG(stat.st_mode):
                described.append(
                    (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)
                )
                continue
            problem = DataProblem(
                f"{encoded.name(index)}: a folder, pipe or device, not a file",
                "put the image there, or correct the path",
            )
        except (OSError, ValueError) as error:
            problem = _missing(encoded, index, error)
        if len(problems) < LISTED:
            problems.append(problem)
        else:
            more += 1
    raise_together(problems, more)
    return described


def _content_key(encoded: EncodedImages, files: list[tuple[int, ...]], cache: Path) -> str:
    """Return the hash of all images, 32 hex digits.

    Hashing the bytes alone is right, but reads a whole data set at every start, 13 GB for ImageNet-LT.
    So the key is kept under the hash of what `_describe_files` says: where that is as before, nothing
    is read. Not the other way round (that description as the key), so that a copied or moved data set
    is not decoded again.
    """
    digest = hashlib.sha256(repr(FORMAT).encode())
    if not files:
        for item in encoded.items:
            assert isinstance(item, bytes)
            digest.update(len(item).to_bytes(8, "little") + item)
        return digest.hexdigest()[:32]
    names = [str(item) for item in encoded.items]
    unchanged = repr((FORMAT, str(encoded.root.absolute()), names, files))
    kept = cache / f"{hashlib.sha256(unchanged.encode()).hexdigest()[:32]}.key"
    with suppress(OSError, ValueError, Altered):
        return str(unseal(kept.read_text())["key"])
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), CHUNK):
            chunk = range(start, min(start + CHUNK, len(names)))
            for index, content in zip(
                chunk, pool.map(lambda i: _hash_file(encoded, i), chunk), strict=True
            ):
                digest.update(repr((names[index], content)).encode())
    key = digest.hexdigest()[:32]
    newest = max(max(mtime, ctime) for _, mtime, ctime, *_ in files) / 1e9
    if time.time() - newest > SETTLED_S:
        partial = kept.with_suffix(f".{uuid.uuid4().hex}.partial")
        partial.write_text(json.dumps(seal({"key": key})))
        partial.replace(kept)
    return key


def _hash_file(encoded: EncodedImages, index: int) -> str:
    try:
        with (encoded.root / str(encoded.items[index])).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _missing(encoded, index, error) from error


def _missing(encoded: EncodedImages, index: int, error: OSError | ValueError) -> DataProblem:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return DataProblem(
        f"{encoded.name(index)}: no image at "
        f"{shown(encoded.root / str(encoded.items[index]))[:PATH_SHOWN]} ({reason})",
        "put the image there, or correct the path",
    )


def _read(path: Path, shape: tuple[int, ...]) -> DecodedImages | None:
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


def _write(path: Path, images: Iterator[tuple[Pixels, int, bytes]], shape: tuple[int, ...]) -> None:
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
