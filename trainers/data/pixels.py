"""One image file as pixels of a given size, and what had to be done to it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import IntFlag
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataProblem
from .packed import Pixels
from .report import Note

if TYPE_CHECKING:
    from PIL import Image

BACKGROUND = (255, 255, 255, 255)
"""White, RGBA: what lies under transparent pixels, as on a page. Their own colours are arbitrary."""
ORIENTATION = 0x0112
"""EXIF's number of the orientation: 1 upright, 2 to 8 mirrored or turned."""
WITH_FRAMES = frozenset({"AVIF", "GIF", "PNG", "TIFF", "WEBP"})
"""Formats whose further frames are images of their own; in phones' JPEGs (MPO) they are previews."""


class Treatment(IntFlag):
    """What was done to an image besides decoding it."""

    CROPPED = 1
    TURNED = 2
    FLATTENED = 4
    FIRST_FRAME = 8
    ENLARGED = 16


DESCRIPTIONS = {
    Treatment.CROPPED: ("cropped", "not square: cut to the square at the centre"),
    Treatment.TURNED: ("turned", "turned or mirrored as the EXIF data say"),
    Treatment.FLATTENED: ("flattened", "with transparent pixels: laid on white"),
    Treatment.FIRST_FRAME: ("first frame", "with several frames: only the first is used"),
    Treatment.ENLARGED: ("enlarged", "smaller than the image size: enlarged"),
}
"""Of each treatment: a word for programs, and what is said of the images."""


def describe_treatments(treatments: Sequence[Pixels]) -> Iterator[Note]:
    """Yield what was done to images, from the treatments (N,) of each split."""
    every = np.concatenate(treatments)
    for treatment, (kind, text) in DESCRIPTIONS.items():
        if count := int(np.count_nonzero(every & treatment)):
            yield Note(kind, count, f"{count} of {len(every)} images {text}")


def read_pixels(
    source: Path | io.BytesIO, name: str, size: int, channels: int
) -> tuple[Pixels, int]:
    """Decode an image upright and without transparency, crop it to its centre square, resize it.

    Args:
        name: what error messages call it.
        channels: 1 for grey, 3 for colours.

    Returns:
        (channels, size, size) uint8, and the sum of the `Treatment`s that it had.

    Raises:
        DataProblem: not an image, damaged, or of more than 8 bits.
    """
    from PIL import Image

    done: list[Treatment] = []
    try:
        with open_image(source, size) as image:
            mode = image.mode
            image.load()
            if image.format in WITH_FRAMES and getattr(image, "is_animated", False):
                done.append(Treatment.FIRST_FRAME)
            turned = upright(image)
            if turned is not image:
                done.append(Treatment.TURNED)
            flat = opaque(turned)
            if flat is not turned:
                done.append(Treatment.FLATTENED)
            pixels = flat.convert("RGB" if channels == 3 else "L")
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise DataProblem(
            f"{name}: more than {limit / 1e6:.0f} million pixels",
            "scale the image down, or save it as JPEG, which is read reduced",
        ) from error
    except Exception as error:  # a damaged file makes PIL raise almost anything
        raise DataProblem(
            f"{name}: not an image that can be read ({type(error).__name__})",
            "replace the image, or leave it out",
        ) from error
    if mode[0] in "IF":
        raise DataProblem(
            f"{name}: pixels of more than 8 bits (mode {mode}) would be clipped",
            "convert the image to 8 bits a channel, with the contrast that you want",
        )
    if pixels.size != (size, size):
        side = min(pixels.size)
        if pixels.width != pixels.height:
            done.append(Treatment.CROPPED)
        if side < size:
            done.append(Treatment.ENLARGED)
        left, top = (pixels.width - side) // 2, (pixels.height - side) // 2
        square = pixels.crop((left, top, left + side, top + side))
        # A BOX reduction first, to 3 times the size, which makes no visible difference to LANCZOS
        pixels = square.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    array = np.asarray(pixels).reshape(size, size, channels)
    return np.ascontiguousarray(array.transpose(2, 0, 1)), sum(done)


def open_image(source: Path | io.BytesIO | io.FileIO, size: int) -> Image.Image:
    """Return an image of which nothing but the header is read.

    A JPEG above Pillow's limit of pixels is set to be read reduced, by 8 at most. Pillow refuses it before
    it can be told so, and warns from half of that limit on: see `without_size_warnings`.
    """
    from PIL import Image
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        return Image.open(source)
    except Image.DecompressionBombError:
        if not isinstance(source, Path):
            source.seek(0)
        try:
            image = JpegImageFile(source)
        except SyntaxError:
            image = None  # another format
        if image is None:
            raise
        image.draft(image.mode, (2 * size, 2 * size))
        if image.width * image.height > 2 * (Image.MAX_IMAGE_PIXELS or 0):
            raise
        return image


@contextmanager
def without_size_warnings() -> Iterator[None]:
    """Keep Pillow from warning of images that have more than half of the pixels that it reads."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF data say; itself where they say nothing, or are damaged."""
    from PIL import ImageOps

    with suppress(Exception):
        if image.getexif().get(ORIENTATION, 1) in range(2, 9):
            return ImageOps.exif_transpose(image)
    return image


def opaque(image: Image.Image) -> Image.Image:
    """Return an image on the background; itself where no pixel is transparent."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema()[0] == 255:
        return image
    return Image.alpha_composite(Image.new("RGBA", layer.size, BACKGROUND), layer)
