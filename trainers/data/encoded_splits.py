"""Two splits of encoded images: which are decoded, in which order, and what becomes of their pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .decoded import DecodedImages
from .decoding import Contents, decode
from .encoded import EncodedImages
from .hold_out import HoldOut
from .packed import Indices, PackedImages
from .pixels import describe_treatments
from .progress import OnPhase, quiet
from .repeats import Hashed, describe_repeats
from .report import DataReport, Note
from .source import Splits
from .validation import Validation


@dataclass(frozen=True, eq=False)
class Part:
    """Encoded images that are decoded into one array.

    Args:
        images: in the order of the rows.
        contents: what they are, where it was needed to choose them.
    """

    images: EncodedImages
    contents: Contents | None = None


@dataclass(frozen=True, eq=False)
class EncodedSplits:
    """Two splits before any of their images is decoded.

    The parts one after the other are the rows of both splits, each of which is a block of rows. The
    blocks overlap where images are lent to be compared with.

    Args:
        parts: one, or one for each split.
        train: rows of the training images.
        reference: rows of the images to compare with.
        class_names: by id.
        image_shape: (channels, height, width).
        notes: what was found of the files, before what is found of the pixels.
        available: as in `Splits`, like those that follow.
    """

    parts: tuple[Part, ...]
    train: slice
    reference: slice
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    notes: tuple[Note, ...] = ()
    available: int | None = None
    hold_out: HoldOut | None = None
    validation: Validation | None = None
    borrowed: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(len(part.images.labels) for part in self.parts)

    def name(self, row: int) -> str:
        """Return what messages call the image of a row."""
        for part in self.parts:
            if row < (count := len(part.images.labels)):
                return part.images.name(row)
            row -= count
        raise IndexError(row)

    def decode(self, cache: Path, on_phase: OnPhase = quiet) -> Splits:
        """Return both splits, decoded on this machine or mapped from its cache.

        Args:
            cache: folder of decoded images; created when needed.
            on_phase: takes lines that say how far it is.

        Raises:
            DataProblem: an image that cannot be decoded.
            DiskProblem: a cache that cannot be written.
        """
        channels, size, _ = self.image_shape
        return self.assemble(
            [
                decode(part.images, size, channels, cache, part.contents, on_phase)
                for part in self.parts
            ]
        )

    def assemble(self, decoded: Sequence[DecodedImages]) -> Splits:
        """Return both splits of decoded images.

        Args:
            decoded: of each part.
        """
        train, reference = (self._block(rows, decoded) for rows in (self.train, self.reference))
        return Splits(
            train,
            reference,
            self.report(decoded),
            available=self.available,
            hold_out=self.hold_out,
            validation=self.validation,
            borrowed=self.borrowed,
            train_name=partial(self._named, self.train.start),
        )

    def report(self, decoded: Sequence[DecodedImages]) -> DataReport:
        """Return what was found of the files and of the pixels.

        Args:
            decoded: of each part; their pixels are not looked at.
        """
        first, end = self.reference.start, self.reference.stop
        # Borrowed images are in both on purpose.
        rest = self._hashed(slice(max(first, self.train.stop), end), decoded)
        return DataReport(
            (
                *self.notes,
                *describe_treatments([each.treatments for each in decoded]),
                *describe_repeats(self._hashed(self.train, decoded), rest),
            )
        )

    @property
    def labels(self) -> Indices:
        """(N,), of all rows."""
        return np.concatenate([part.images.labels for part in self.parts])

    def rows(self, first: int, stop: int) -> Iterator[EncodedImages]:
        """Yield the images of a range of rows, in their order, of one part after the other."""
        start = 0
        for part in self.parts:
            end = start + len(part.images.labels)
            if first < end and stop > start:
                chosen = np.arange(max(first, start), min(stop, end)) - start
                yield part.images.select(chosen)
            start = end

    def _block(self, rows: slice, decoded: Sequence[DecodedImages]) -> PackedImages:
        which, within = self._part_of(rows)
        labels = self.parts[which].images.labels[within]
        images = decoded[which]
        return PackedImages(images.pixels[within], labels, self.class_names, images.known(within))

    def _hashed(self, rows: slice, decoded: Sequence[DecodedImages]) -> Hashed:
        which, within = self._part_of(rows)
        labels = self.parts[which].images.labels[within]
        return Hashed(decoded[which].hashes[within], labels, partial(self._named, rows.start))

    def _named(self, first: int, index: int) -> str:
        return self.name(first + index)

    def _part_of(self, rows: slice) -> tuple[int, slice]:
        """Return the part that holds a block of rows, and which of its rows these are."""
        first = 0
        for which, part in enumerate(self.parts):
            end = first + len(part.images.labels)
            if rows.start < end or which == len(self.parts) - 1:
                return which, slice(rows.start - first, rows.stop - first)
            first = end
        raise AssertionError("an EncodedSplits has a part")
