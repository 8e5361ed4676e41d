"""Headers of image files: size, kind of pixels, format, orientation; and which files may be equal."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ...trainers.data.packed import Indices
from ...trainers.data.pixels import ORIENTATION, WITH_FRAMES
from .listing import Encoded, Listing

PREFIX = 1 << 16
"""Bytes of a file that are hashed with its header; most small images have no more."""
REPORT_EVERY = 500
"""Images between two reports of progress."""
KINDS = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "La": "grey with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGB with transparency",
    "RGBa": "RGB with transparency",
    "CMYK": "CMYK",
}
"""What Pillow's modes are called."""
DEEP = "more than 8 bits"
"""Kind of the modes I, I;16, F and their like."""


@dataclass(eq=False)
class Headers:
    """What is known of N images without decoding them.

    Args:
        size: (N, 2) int32, width and height as they are stored; 0 where there is no image.
        turned: (N,) bool, the EXIF data say that the image is not upright.
        frames: (N,) bool, it has several frames.
        content: (N, 2) uint64, the number of bytes and a hash of the first `PREFIX`.
        kinds: number of images by kind of pixels.
        formats: number of images by format.
        deep: images of more than 8 bits.
        broken: why an image cannot be opened, by index.
    """

    size: NDArray[np.int32]
    turned: NDArray[np.bool_]
    frames: NDArray[np.bool_]
    content: NDArray[np.uint64]
    kinds: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    deep: list[int] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)

    def readable(self) -> Indices:
        """Return the indices of the images that could be opened."""
        return np.flatnonzero(self.size[:, 0])


def read_headers(listing: Listing, on_progress: Callable[[int], None]) -> Headers:
    """Read the header of every image once; what cannot be opened is named, not raised.

    Args:
        on_progress: gets the number of headers that were read.
    """
    count = len(listing.labels)
    headers = Headers(
        np.zeros((count, 2), np.int32),
        np.zeros(count, bool),
        np.zeros(count, bool),
        np.zeros((count, 2), np.uint64),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow: large images, damaged EXIF data
        for done, (index, encoded) in enumerate(listing.open(np.arange(count))):
            if done % REPORT_EVERY == 0:
                on_progress(done)
            try:
                _read(headers, index, encoded)
            except Exception as error:  # noqa: BLE001  (a damaged file makes PIL raise almost anything)
                headers.broken[index] = reason(error)
                headers.size[index] = 0
    return headers


def _read(headers: Headers, index: int, encoded: Encoded) -> None:
    if isinstance(encoded, Path):
        with encoded.open("rb", buffering=0) as stream:
            head = stream.read(PREFIX)
            length = os.fstat(stream.fileno()).st_size
            _describe(headers, index, head, length, stream if length > PREFIX else io.BytesIO(head))
    else:
        content = encoded.getbuffer()
        _describe(headers, index, content[:PREFIX], len(content), encoded)


def _describe(
    headers: Headers, index: int, head: bytes | memoryview, length: int, stream: io.IOBase
) -> None:
    digest = hashlib.blake2b(head, digest_size=8).digest()
    headers.content[index] = length, int.from_bytes(digest, "little")
    if not length:
        raise EmptyFile
    stream.seek(0)
    with Image.open(stream) as image:  # type: ignore[arg-type]
        headers.size[index] = image.size
        kind = KINDS.get(image.mode, DEEP if image.mode[0] in "IF" else image.mode)
        if image.mode in ("P", "RGB", "L") and "transparency" in image.info:
            kind = f"{KINDS[image.mode]} with transparency"
        name = image.format or "?"
        headers.kinds[kind] = headers.kinds.get(kind, 0) + 1
        headers.formats[name] = headers.formats.get(name, 0) + 1
        if kind == DEEP:
            headers.deep.append(index)
        headers.turned[index] = _is_turned(image)
        headers.frames[index] = name in WITH_FRAMES and bool(getattr(image, "is_animated", False))


class EmptyFile(Exception):
    """A file of no bytes."""


def reason(error: Exception) -> str:
    """Return in some words why an image cannot be read."""
    if isinstance(error, EmptyFile):
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    text = str(error).lower()
    if "truncated" in text or "incomplete" in text or isinstance(error, EOFError):
        return "truncated"
    return f"damaged: {type(error).__name__}"


def _is_turned(image: Image.Image) -> bool:
    """Return whether EXIF data say that an image is not upright; PNGs are not decoded for it."""
    if not {"exif", "xmp", "XML:com.adobe.xmp"} & image.info.keys() and image.format != "TIFF":
        return False
    try:
        return image.getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # noqa: BLE001  (damaged EXIF data; the image is used as it is)
        return False
