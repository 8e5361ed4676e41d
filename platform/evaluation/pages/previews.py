"""The previews of a training as a page that grows: the newest moment first."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .content import PreviewStrip
from .page import render
from .tiles import SIDE, png


@dataclass(frozen=True)
class ClassColumn:
    """One class of a moment: its images below each other."""

    name: str
    train_count: int
    source: str
    """A data URI."""
    width: int
    """CSS pixels, a whole multiple of the picture's own."""
    height: int


@dataclass(frozen=True)
class Moment:
    """One moment of a training."""

    images_seen: int
    share: float
    """Of the training, in [0, 1]."""
    columns: tuple[ClassColumn, ...]


def render_previews(run_name: str, strips: Sequence[PreviewStrip]) -> str:
    """Return the previews as one self-contained HTML page.

    Args:
        run_name: of the training.
        strips: the newest first.
    """
    moments = [moment_of(strip) for strip in strips]
    return render("previews.html.jinja", run_name=run_name, moments=moments)


def moment_of(strip: PreviewStrip) -> Moment:
    """Return a preview cut into its classes, so that they wrap where a window is narrow."""
    with Image.open(io.BytesIO(strip.png)) as picture:
        pixels = np.asarray(picture)
    columns = []
    for name, count, part in zip(
        strip.class_names,
        strip.train_counts,
        np.split(pixels, len(strip.class_names), axis=1),
        strict=True,
    ):
        scale = max(1, round(SIDE / part.shape[1]))
        source = png(Image.fromarray(np.ascontiguousarray(part)))
        columns.append(
            ClassColumn(name, count, source, part.shape[1] * scale, part.shape[0] * scale)
        )
    share = min(1.0, strip.images_seen / strip.total_images)
    return Moment(strip.images_seen, share, tuple(columns))
