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
from typing import Literal

import numpy as np
from pydantic import Field

from ..disk import disk_problem
from ..errors import DataProblem
from ..integrity import DIGEST_BYTES, Altered, seal, unseal
from .long_tail import long_tail_indices
from .packed import Indices, PackedImages, Pixels, check_every_class, check_labels
from .source import SourceConfig, Splits

FORMAT = 2
"""Part of every cache key: raise it when decoding gives other pixels, or a file another layout."""
CHUNK = 4096
"""Images given to the threads at a time, which bounds the memory."""
STALE_S = 24 * 3600
"""Age at which an unfinished cache file is removed: no run decodes that long, so it was killed."""
SETTLED_S = 2.0
"""Age of a file's last change from which its times tell of a further one: they advance in steps, of up
to 2 s on file systems in use."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Labelled images of one split, as files or as bytes.

    Args:
        items: paths relative to `root`, or the encoded bytes.
        labels: (N,) int64.
        name: gives what error messages call the image at an index: its file, line or row.
        root: folder of the paths.
    """

    items: Sequence[str | bytes]
    labels: Indices
    name: Callable[[int], str]
    root: Path = Path()

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


class EncodedConfig(SourceConfig):
    """A source of encoded images, which may differ in size."""

    image_size: int = Field(default=64, ge=1)
    """Height and width in pixels. Other images are cropped to the square at their centre and
    resized; 64 is what CBDM uses for ImageNet-LT."""
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for grey."""

    def pack(
        self,
        cache: Path,
        train: EncodedImages,
        reference: EncodedImages,
        class_names: Sequence[str] | None,
    ) -> Splits:
        """Check the labels, cut the tail, and decode the images that are kept.

        Args:
            class_names: None to number the classes, from 0 to the largest label.

        Raises:
            DataProblem: a label outside the classes, a class without an image, or an image that
                cannot be decoded.
        """
        if class_names is None:
            class_names = _numbered(train, reference)
        for where, split in (("training", train), ("reference", reference)):
            check_labels(split.labels, len(class_names), split.name)
            fix = "add images of it, or leave the class out"
            check_every_class(split.labels, class_names, f"{where} images", fix)
        kept = long_tail_indices(
            train.labels, len(class_names), self.long_tail, class_names=class_names
        )
        names = tuple(class_names)
        return Splits(
            *(
                PackedImages(
                    decode(split, self.image_size, self.channels, cache), split.labels, names
                )
                for split in (train.select(kept), reference)
            )
        )


def decode(encoded: EncodedImages, size: int, channels: Literal[1, 3], cache: Path) -> Pixels:
    """Return all images as (N, channels, size, size) uint8, from the cache or decoded in threads.

    A cached array gets its name only when it is complete, and is followed by its hash, which is checked
    here. Its key is the content: the bytes of all images. Files are read for it only when they are new,
    or when one has changed since.

    Args:
        cache: folder of the arrays; created when needed.

    Returns:
        A read-only memory map.

    Raises:
        DataProblem: an image that is missing, damaged or changed meanwhile.
        DiskProblem: a cache that cannot be written.
    """
    shape = (len(encoded.items), channels, size, size)
    files = _describe_files(encoded)
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


def _numbered(train: EncodedImages, reference: EncodedImages) -> list[str]:
    """Return class names for labels without names: the numbers from 0 to the largest label."""
    largest = max(int(split.labels.max(initial=-1)) for split in (train, reference))
    for split in (train, reference):
        # Then a class must be empty; reported before a mistyped label fills the memory with names.
        if largest in split.labels and largest >= len(train.labels):
            raise DataProblem(
                f"{split.name(int(split.labels.argmax()))}: label {largest}, but there are only "
                f"{len(train.labels)} training images",
                "correct the label; labels count from 0 without gaps",
            )
    return [str(c) for c in range(largest + 1)]


def _describe_files(encoded: EncodedImages) -> list[tuple[int, ...]]:
    """Return size, times, inode and device of each image that is a file.

    The time of the last change of the inode cannot be set, unlike that of the content: a file that was
    replaced or written in place has another one, whatever tar, rsync or cp -p made of the rest.
    """
    described: list[tuple[int, ...]] = []
    for index, item in enumerate(encoded.items):
        if isinstance(item, bytes):
            continue
        try:
            stat = (encoded.root / item).stat()
        except OSError as error:
            raise _missing(encoded, index, error) from error
        described.append(
            (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)
        )
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


def _missing(encoded: EncodedImages, index: int, error: OSError) -> DataProblem:
    return DataProblem(
        f"{encoded.name(index)}: no image at {encoded.root / str(encoded.items[index])} "
        f"({error.strerror})",
        "put the image there, or correct the path",
    )


def _read(path: Path, shape: tuple[int, ...]) -> Pixels | None:
    """Return a finished array; None where it is absent, cut short or not what was written."""
    if not path.exists():
        return None
    with suppress(OSError, ValueError, EOFError):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        fits = array.shape == shape and array.dtype == np.uint8 and array.flags.c_contiguous
        if fits and hashlib.sha256(array.data).digest() == _stored_digest(path):
            pixels: Pixels = array.view(np.ndarray)
            return pixels
    log.warning("%s: decoded images are damaged; decoding them again", path)
    return None


def _stored_digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        stream.seek(-DIGEST_BYTES, os.SEEK_END)
        return stream.read()


def _write(path: Path, images: Iterator[Pixels], shape: tuple[int, ...]) -> None:
    """Write an array row by row under a temporary name, then rename it."""
    for left in path.parent.glob("*.partial"):
        if time.time() - left.stat().st_mtime > STALE_S:
            left.unlink(missing_ok=True)
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")  # workers may write at once
    try:
        with partial.open("wb") as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            digest = hashlib.sha256()
            for image in images:
                stream.write(image.data)
                digest.update(image.data)
            stream.write(digest.digest())  # after the array, where `np.load` does not look
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _decode_all(encoded: EncodedImages, size: int, channels: Literal[1, 3]) -> Iterator[Pixels]:
    """Yield each image, (channels, size, size); PIL releases the interpreter's lock as it decodes."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(encoded.items), CHUNK):
            chunk = range(start, min(start + CHUNK, len(encoded.items)))
            yield from pool.map(lambda i: _decode_one(encoded, i, size, channels), chunk)


def _decode_one(encoded: EncodedImages, index: int, size: int, channels: Literal[1, 3]) -> Pixels:
    from PIL import Image

    try:
        with Image.open(encoded.open(index)) as image:
            mode = image.mode
            pixels = image.convert("RGB" if channels == 3 else "L")
    except Exception as error:  # a damaged file makes PIL raise almost anything
        raise DataProblem(
            f"{encoded.name(index)}: not an image that can be read ({type(error).__name__})",
            "replace the image, or leave it out",
        ) from error
    if mode[0] in "IF":
        raise DataProblem(
            f"{encoded.name(index)}: pixels of more than 8 bits (mode {mode}) would be clipped",
            "convert the image to 8 bits a channel, with the contrast that you want",
        )
    if pixels.size != (size, size):
        side = min(pixels.size)
        left, top = (pixels.width - side) // 2, (pixels.height - side) // 2
        square = pixels.crop((left, top, left + side, top + side))
        # A BOX reduction first, to 3 times the size, which makes no visible difference to LANCZOS
        pixels = square.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    array = np.asarray(pixels).reshape(size, size, channels)
    return np.ascontiguousarray(array.transpose(2, 0, 1))
