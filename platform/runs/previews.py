"""A run's previews in the store: a picture for each moment, and a page of all of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...trainers.errors import Problem
from ...trainers.previews import Preview
from ...trainers.scratch import Scratch
from ..evaluation.pages.content import PreviewStrip
from ..evaluation.pages.previews import render_previews
from ..storage import layout
from ..storage.store import Storage

ABOUT = "about"
"""Key of a picture's text, in which its classes and its moment stand."""


class PreviewPage:
    """The previews of one run, which an interrupted training goes on with.

    Args:
        store: the run's folder.
    """

    def __init__(self, store: Storage) -> None:
        self.store = store
        self._strips: dict[int, PreviewStrip] | None = None

    def add(self, preview: Preview) -> PreviewStrip:
        """Keep a preview's picture, and write the page again.

        Raises:
            Problem: what is wrong with the store.
        """
        if self._strips is None:  # those of before an interruption
            self._strips = {strip.images_seen: strip for strip in read_strips(self.store)}
        strip = strip_of(preview)
        self._strips[strip.images_seen] = strip
        with Scratch() as scratch:
            file = Path(scratch) / "strip.png"
            file.write_bytes(strip.png)
            self.store.put_file(file, layout.preview_strip(strip.images_seen))
        newest_first = [self._strips[key] for key in sorted(self._strips, reverse=True)]
        name = layout.run_target(self.store.base) or self.store.base
        self.store.write_text(layout.PREVIEW_PAGE, render_previews(name, newest_first))
        return strip


def strip_of(preview: Preview) -> PreviewStrip:
    """Return a preview as one picture: a column for each class, its images below each other."""
    classes, each, channels, height, width = preview.images.shape
    rows = preview.images.transpose(1, 3, 0, 4, 2).reshape(each * height, classes * width, channels)
    about = {
        "images_seen": preview.images_seen,
        "total_images": preview.total_images,
        "class_names": preview.class_names,
        "train_counts": preview.train_counts,
    }
    text = PngInfo()
    text.add_text(ABOUT, json.dumps(about))
    stream = io.BytesIO()
    picture = np.ascontiguousarray(rows[..., 0] if channels == 1 else rows)
    Image.fromarray(picture).save(stream, "PNG", pnginfo=text, optimize=True)
    return PreviewStrip(
        stream.getvalue(),
        preview.images_seen,
        preview.total_images,
        preview.class_names,
        preview.train_counts,
    )


def read_strips(store: Storage) -> list[PreviewStrip]:
    """Return the previews that a run has kept, in the order of the training; damaged ones are left out."""
    strips = []
    with Scratch() as scratch:
        for name in sorted(store.list(layout.PREVIEWS)):
            file = Path(scratch) / "strip.png"
            store.get_file(name, file)
            if strip := read_strip(file):
                strips.append(strip)
    return strips


def read_strip(file: Path) -> PreviewStrip | None:
    """Read what `strip_of` made; None where it cannot be read."""
    try:
        with Image.open(file) as picture:
            about = json.loads(picture.text[ABOUT])  # type: ignore[attr-defined]
        return PreviewStrip(
            file.read_bytes(),
            about["images_seen"],
            about["total_images"],
            tuple(about["class_names"]),
            tuple(about["train_counts"]),
        )
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None


def last_strip(store: Storage) -> PreviewStrip | None:
    """Return the newest preview of a run; None where there is none that can be read."""
    try:
        names = sorted(store.list(layout.PREVIEWS))
        if not names:
            return None
        with Scratch() as scratch:
            file = Path(scratch) / "strip.png"
            store.get_file(names[-1], file)
            return read_strip(file)
    except Problem:  # a page without it is worth more than none
        return None
