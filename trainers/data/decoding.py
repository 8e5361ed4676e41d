"""Decoding of image files, once, into an array on disk that later runs map into memory."""

from __future__ import annotations

import hashlib
import io
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ..errors import DataProblem
from .long_tail import long_tail_indices
from .packed import Indices, PackedImages, Pixels, check_every_class, check_labels
from .source import SourceConfig, Splits

FORMAT = 1
"""Part of every cache key: raise it when decoding gives other pixels."""
CHUNK = 4096
"""Images given to the threads at a time, which bounds the memory."""
STALE_S = 24 * 3600
"""Age at which an unfinished cache file is removed: no run decodes that long, so it was killed."""


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

    A cached array gets its name only when it is complete. Its key is the content: for files their
    relative paths, sizes and modification times, for bytes the bytes themselves.

    Args:
        cache: folder of the arrays; created when needed.

    Returns:
        A read-only memory map.

    Raises:
        DataProblem: an image that is missing or damaged, or a cache that cannot be written.
    """
    shape = (len(encoded.items), channels, size, size)
    path = cache / f"{_content_key(encoded, shape)}.npy"
    if (cached := _read(path, shape)) is not None:
        return cached
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _write(path, _decode_all(encoded, size, channels), shape)
    except OSError as error:
        raise DataProblem(
            f"{cache}: decoded images cannot be written ({error.strerror})",
            "free some space, or choose another cache folder",
        ) from error
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


def _content_key(encoded: EncodedImages, shape: tuple[int, ...]) -> str:
    digest = hashlib.blake2b(repr((FORMAT, shape)).encode(), digest_size=16)
    for index, item in enumerate(encoded.items):
        if isinstance(item, bytes):
            digest.update(len(item).to_bytes(8, "little") + item)
            continue
        try:
            stat = (encoded.root / item).stat()
        except OSError as error:
            raise DataProblem(
                f"{encoded.name(index)}: no image at {encoded.root / item} ({error.strerror})",
                "put the image there, or correct the path",
            ) from error
        digest.update(repr((item, stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()


def _read(path: Path, shape: tuple[int, ...]) -> Pixels | None:
    """Return a finished array, None if it is absent, cut short or of another shape or type."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = array.shape == shape and array.dtype == np.uint8 and array.flags.c_contiguous
    return array.view(np.ndarray) if fits else None


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
            for image in images:
                stream.write(image.data)
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
