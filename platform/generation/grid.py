"""A picture of samples: one row a class, from head to tail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...trainers.errors import DataProblem
from ..evaluation.arrays import Ints, Pixels

TILE = 56
"""Side of a tile that `scale` comes near to where none is given, pixels."""

PAPER, INK, QUIET, RAIL, TAIL = "#ffffff", "#1c2430", "#7b8794", "#eef1f4", "#2f7fb8"


def class_grid(
    images: Pixels,
    class_ids: Ints,
    class_names: Sequence[str],
    per_class: int = 10,
    scale: int | None = None,
    train_counts: Sequence[int] | None = None,
) -> Image.Image:
    """Render the first `per_class` images of every class that has some.

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
    classes = [int(c) for c in np.unique(class_ids)]
    if train_counts is not None:
        classes.sort(key=lambda c: -train_counts[c])
    columns = min(per_class, int(np.bincount(class_ids).max()))
    layout = _Layout.of(
        images.shape[2] * scale, images.shape[3] * scale, classes, class_names, train_counts
    )
    canvas = Image.new("RGB", layout.size(len(classes), columns), PAPER)
    pen = ImageDraw.Draw(canvas)
    for row, c in enumerate(classes):
        _label(pen, layout, row, class_names[c], None if train_counts is None else train_counts[c])
        if train_counts is not None:
            share = train_counts[c] / max(1, *train_counts)
            _bar(pen, layout.count_ends, layout.top(row) + layout.height * 0.68, share)
        for column, image in enumerate(images[class_ids == c][:columns]):
            pixels = np.repeat(np.repeat(image.transpose(1, 2, 0), scale, 0), scale, 1)
            tile = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            canvas.paste(tile, (layout.left(column), layout.top(row)))
    return canvas


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels."""

    height: int
    """Of a tile."""
    width: int
    """Of a tile."""
    gap: int
    """Between tiles."""
    margin: int
    label: int
    """Width of the labels."""
    name_font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    count_font: ImageFont.FreeTypeFont | ImageFont.ImageFont

    @classmethod
    def of(
        cls,
        height: int,
        width: int,
        classes: Sequence[int],
        class_names: Sequence[str],
        train_counts: Sequence[int] | None,
    ) -> _Layout:
        """Return the layout for tiles of this size, with room for the labels of these classes."""
        gap = max(4, height // 10)
        name_font = ImageFont.load_default(max(12, height * 0.27))
        count_font = ImageFont.load_default(max(10, height * 0.2))
        text = max(name_font.getlength(class_names[c]) for c in classes)
        if train_counts is not None:
            text += 2 * gap + max(count_font.getlength(f"{train_counts[c]:,}") for c in classes)
        label = round(max(text, 2.2 * height)) + 4 * gap
        return cls(height, width, gap, 4 * gap, label, name_font, count_font)

    def size(self, rows: int, columns: int) -> tuple[int, int]:
        """Return width and height of the whole picture."""
        return (
            2 * self.margin + self.label + columns * (self.width + self.gap) - self.gap,
            2 * self.margin + rows * (self.height + self.gap) - self.gap,
        )

    def top(self, row: int) -> int:
        """Return the upper edge of a row."""
        return self.margin + row * (self.height + self.gap)

    def left(self, column: int) -> int:
        """Return the left edge of a column of tiles."""
        return self.margin + self.label + column * (self.width + self.gap)

    @property
    def count_ends(self) -> tuple[int, int]:
        """Left and right end of a class's bar."""
        return self.margin, self.margin + self.label - 4 * self.gap


def _label(
    pen: ImageDraw.ImageDraw, layout: _Layout, row: int, name: str, count: int | None
) -> None:
    """Write a class's name, and its number of training images if that is known."""
    top, height = layout.top(row), layout.height
    if count is None:
        pen.text((layout.margin, top + height / 2), name, INK, layout.name_font, "lm")
        return
    left, right = layout.count_ends
    base = top + height * 0.5
    pen.text((left, base), name, INK, layout.name_font, "ls")
    pen.text((right, base), f"{count:,}", QUIET, layout.count_font, "rs")


def _bar(pen: ImageDraw.ImageDraw, ends: tuple[float, float], y: float, share: float) -> None:
    """Render a class's share of the largest class's images as a bar on a rail."""
    left, right = ends
    pen.rectangle((left, y, right, y + 2), RAIL)
    pen.rectangle((left, y, left + max(2, share * (right - left)), y + 2), TAIL)
