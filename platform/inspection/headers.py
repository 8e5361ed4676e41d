"""Headers of image files: size, kind of pixels, format, orientation; and which files may be equal."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ...trainers.data.decoding import HASH_BYTES
from ...trainers.data.packed import Indices
from ...trainers.data.pixels import ORIENTATION, WITH_FRAMES, open_image
from .listing import Encoded, Listing

PREFIX = 1 << 16
"""Bytes of a file that are hashed with its header; most small images have no more."""
SIDE = 32
"""Height and width of the small images of `looks`; a JPEG above Pillow's limit is reduced to no less."""
EXACT_BELOW = 100
"""Images of a class below which all its files are hashed whole."""
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
        content: (N, 2) uint64, the number of bytes and their hash, as `trainers.data.hold_out` takes it; of
            a larger file the hash of its first `PREFIX` bytes, until `complete_hashes`.
        partial: (N,) bool, where it is that of the first bytes only.
        kinds: number of images by kind of pixels.
        formats: number of images by format.
        deep: images of more than 8 bits.
        broken: why an image cannot be opened, by index.
    """

    size: NDArray[np.int32]
    turned: NDArray[np.bool_]
    frames: NDArray[np.bool_]
    content: NDArray[np.uint64]
    partial: NDArray[np.bool_]
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
        np.zeros(count, bool),
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
            headers.content[index] = length, _hash(hashlib.sha256(head))
            headers.partial[index] = length > PREFIX
            _describe(headers, index, stream if length > PREFIX else io.BytesIO(head))
    else:
        content = encoded.getvalue()
        headers.content[index] = len(content), _hash(hashlib.sha256(content))
        _describe(headers, index, encoded)


def _hash(digest: hashlib._Hash) -> int:
    """Return the 8 bytes by which an image is held out."""
    return int.from_bytes(digest.digest()[:HASH_BYTES], sys.byteorder)


def complete_hashes(listing: Listing, headers: Headers) -> None:
    """Hash whole files where their first bytes do not do: they may be equal, or their class is small.

    Which images of a small class are held out is to be known exactly; of the others, any hash gives the
    same number but for chance.
    """
    _, group, equal = np.unique(headers.content, axis=0, return_inverse=True, return_counts=True)
    small = np.bincount(listing.labels, minlength=len(listing.class_names)) < EXACT_BELOW
    wanted = headers.partial & ((equal[group.ravel()] > 1) | small[listing.labels])
    for index, encoded in listing.open(np.flatnonzero(wanted)):
        assert isinstance(encoded, Path)
        with suppress(OSError), encoded.open("rb") as stream:
            headers.content[index, 1] = _hash(hashlib.file_digest(stream, "sha256"))
            headers.partial[index] = False


def _describe(headers: Headers, index: int, stream: io.FileIO | io.BytesIO) -> None:
    if not headers.content[index, 0]:
        raise EmptyFile
    stream.seek(0)
    with open_image(stream, SIDE) as image:
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
