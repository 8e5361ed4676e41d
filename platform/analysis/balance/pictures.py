"""Images of a balanced set as PNGs of their exact pixels."""

from __future__ import annotations

import io
from contextlib import suppress

import numpy as np

from ....trainers.data.packed import Pixels

PNG_END = b"IEND\xaeB`\x82"


def encode(pixels: Pixels) -> bytes:
    """Return an image (C, H, W) as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(_as_picture(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def _as_picture(pixels: Pixels) -> Pixels:
    return pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))


def is_image(data: bytes, pixels: Pixels) -> bool:
    """Return whether bytes are an image of just these pixels (C, H, W)."""
    from PIL import Image

    if not data.endswith(PNG_END):  # Pillow reads a file without it
        return False
    # a damaged file makes Pillow raise almost anything
    with suppress(Exception), Image.open(io.BytesIO(data)) as image:
        return np.array_equal(np.asarray(image), _as_picture(pixels))
    return False
