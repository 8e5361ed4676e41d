"""Labelled images of one split before they are decoded: files, or bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .packed import Indices
from .report import Note


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Labelled images of one split, as files or as bytes.

    Args:
        items: paths relative to `root`, or the encoded bytes.
        labels: (N,) int64.
        name: gives what error messages call the image at an index: its file, line or row.
        root: folder of the paths.
        notes: what was found beside them.
    """

    items: Sequence[str | bytes]
    labels: Indices
    name: Callable[[int], str]
    root: Path = Path()
    notes: tuple[Note, ...] = ()

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
