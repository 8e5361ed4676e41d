"""PNG files of 8 bits a channel, without an image library (ISO/IEC 15948:2004)."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from .errors import UsageProblem

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels -> IHDR's colour type (table 11.1): grey, grey with alpha, RGB, RGB with alpha."""


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Return an image (C, H, W) as a PNG file; decoding it gives the same bytes.

    Raises:
        UsageProblem: a number of channels that PNG has not.
    """
    channels, height, width = image.shape
    if channels not in COLOUR_TYPES:
        raise UsageProblem(f"a PNG of {channels} channels", "take the arrays: format=array")
    pixels = image.transpose(1, 2, 0).reshape(height, width * channels)
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # filter 0 before each row (9.2)
    rows[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk: length, kind, data, and the CRC of the latter two (5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
