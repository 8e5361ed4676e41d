"""A picture of samples: one row a class, from head to tail."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...trainers.errors import DataProblem

TILE = 56
"""Side of a tile that `scale` aims at where none is given, pixels."""

PAPER, INK, QUIET, RAIL, TAIL = "#ffffff", "#1c2430", "#7b8794", "#eef1f4", "#2f7fb8"


def class_grid(
    images: NDArray[np.uint8],
    class_ids: NDArray[np.int64],
    class_names: Sequence[str],
    per_class: int = 10,
    scale: int | None = None,
    train_counts: Sequence[int] | None = None,
) -> Image.Image:
    """Draw the first `per_class` images of every class that has some.

    Rows go from the most to the fewest training images where the counts are given (each then has
    its count and a bar of that length), else by class id. Pixels are repeated, never smoothed.

    Args:
        images: uint8 (N, C, H, W), C is 1 or 3.
        class_ids: int64 (N,).
        class_names: by class id.
        per_class: columns.
        scale: screen pixels for each image pixel; about 56 pixels a tile where not given.
        train_counts: training images by class id.

    Raises:
        DataProblem: no images, or images that are neither grey nor RGB.
    """
    if not len(images) or images.shape[1] not in (1, 3):
        raise DataProblem(
            f"a grid of {len(images)} images with shape {images.shape[1:]}",
            "give at least one image with 1 or 3 channels, channels first",
        )
    scale = scale or max(1, round(TILE / images.shape[2]))
    height, width = images.shape[2] * scale, images.shape[3] * scale
    gap = max(4, height // 10)
    classes = [int(c) for c in np.unique(class_ids)]
    if train_counts is not None:
        classes.sort(key=lambda c: -train_counts[c])

    name_font = ImageFont.load_default(max(12, height * 0.27))
    count_font = ImageFont.load_default(max(10, height * 0.2))
    margin = 4 * gap
    text = max(name_font.getlength(class_names[c]) for c in classes)
    if train_counts is not None:
        text += 2 * gap + max(count_font.getlength(f"{train_counts[c]:,}") for c in classes)
    label = round(max(text, 2.2 * height)) + 4 * gap
    rows, columns = len(classes), min(per_class, int(np.bincount(class_ids).max()))
    canvas = Image.new(
        "RGB",
        (
            2 * margin + label + columns * (width + gap) - gap,
            2 * margin + rows * (height + gap) - gap,
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(canvas)
    for row, c in enumerate(classes):
        top = margin + row * (height + gap)
        if train_counts is None:
            draw.text((margin, top + height / 2), class_names[c], INK, name_font, "lm")
        else:
            right = margin + label - 4 * gap
            base = top + height * 0.5
            draw.text((margin, base), class_names[c], INK, name_font, "ls")
            draw.text((right, base), f"{train_counts[c]:,}", QUIET, count_font, "rs")
            _bar(
                draw, (margin, right), top + height * 0.68, train_counts[c] / max(1, *train_counts)
            )
        for column, image in enumerate(images[class_ids == c][:columns]):
            pixels = np.repeat(np.repeat(image.transpose(1, 2, 0), scale, 0), scale, 1)
            tile = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            canvas.paste(tile, (margin + label + column * (width + gap), top))
    return canvas


def _bar(draw: ImageDraw.ImageDraw, ends: tuple[float, float], y: float, share: float) -> None:
    """How much of the largest class this one has, as a bar on a rail."""
    left, right = ends
    draw.rectangle((left, y, right, y + 2), RAIL)
    draw.rectangle((left, y, left + max(2, share * (right - left)), y + 2), TAIL)
