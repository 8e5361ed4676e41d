"""A source of encoded images: its settings, and which images are of which split."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import DataProblem
from .decoding import Contents, read_contents
from .encoded import EncodedImages
from .encoded_splits import EncodedSplits, Part
from .hold_out import HoldOut, hold_out
from .long_tail import long_tail_indices
from .packed import Indices, check_every_class, check_labels, check_names
from .progress import OnPhase, quiet
from .report import Note
from .source import SourceConfig, Splits
from .validation import Validation, choose_validation


class EncodedConfig(SourceConfig):
    """A source of encoded images, which may differ in size."""

    image_size: int = Field(default=64, ge=1)
    """Height and width in pixels. Other images are cropped to the square at their centre and
    resized; 64 is what CBDM uses for ImageNet-LT."""
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for grey."""

    hold_out: HoldOut = HoldOut()
    """The images to compare with, where the source has none but training images."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.image_size, self.image_size

    @abstractmethod
    def prepare(self, cache: Path) -> EncodedSplits:
        """Return which encoded images are of which split; none is decoded.

        Args:
            cache: folder of what is known of files' contents; created when needed.

        Raises:
            DataProblem: naming the file, row or line that cannot be used.
        """

    def load(self, cache: Path, on_phase: OnPhase = quiet) -> Splits:
        """Read both splits; see `SourceConfig`."""
        on_phase("listing the images")
        return self.prepare(cache).decode(cache, on_phase)

    def choose(
        self,
        cache: Path,
        train: EncodedImages,
        reference: EncodedImages | None,
        class_names: Sequence[str] | None,
    ) -> EncodedSplits:
        """Check the labels, hold images out or take the others, and cut the tail.

        Args:
            reference: None to hold images out of the training images.
            class_names: None to number the classes, from 0 to the largest label.

        Raises:
            DataProblem: a label outside the classes, or a class without an image.
        """
        named = [("training images", train)]
        if reference is not None:
            named.append(("reference images", reference))
        splits = [split for _, split in named]
        if class_names is None:
            class_names = _numbered(splits)
        check_names(class_names)
        names = tuple(class_names)
        for where, split in named:
            check_labels(split.labels, len(names), split.name)
            fix = "add images of it, or leave the class out"
            check_every_class(split.labels, names, where, fix)
        if self.validation is not None:
            return self._set_apart(cache, train, names, self.validation, reference is None)
        if reference is None:
            return self._held_out(cache, train, names)
        chosen = self._cut(train, self._kept(train.labels, names))
        notes = (
            *(_of_split("train", note) for note in train.notes),
            *(_of_split("reference", note) for note in reference.notes),
        )
        return EncodedSplits(
            (Part(chosen), Part(reference)),
            slice(0, len(chosen.labels)),
            slice(len(chosen.labels), len(chosen.labels) + len(reference.labels)),
            names,
            self.image_shape,
            notes,
            available=len(train.labels),
        )

    def _held_out(
        self, cache: Path, images: EncodedImages, names: tuple[str, ...]
    ) -> EncodedSplits:
        """Return images of one split as two: what is held out is the reference."""
        contents = read_contents(images, cache)
        held = hold_out(contents.hashes, images.labels, len(names), self.hold_out)
        kept = self._kept(images.labels, names, held.mask)
        # Where classes are borrowed, the blocks of the two splits overlap.
        is_lent = np.isin(images.labels[kept], held.borrowed)
        order = np.concatenate([kept[~is_lent], kept[is_lent], np.flatnonzero(held.mask)])
        return EncodedSplits(
            (self._part(images, contents, order),),
            slice(0, len(kept)),
            slice(int((~is_lent).sum()), len(order)),
            names,
            self.image_shape,
            (*images.notes, *held.describe(images.labels, names)),
            available=len(images.labels),
            hold_out=self.hold_out,
            borrowed=held.borrowed,
        )

    def _set_apart(
        self,
        cache: Path,
        images: EncodedImages,
        names: tuple[str, ...],
        config: Validation,
        holds_out: bool,
    ) -> EncodedSplits:
        """Return training images as two splits: those that `validation` sets apart are the reference.

        Args:
            holds_out: whether images are held out of `images` first, which are then in neither.
        """
        contents = read_contents(images, cache)
        held = (
            hold_out(contents.hashes, images.labels, len(names), self.hold_out).mask
            if holds_out
            else None
        )
        kept = self._kept(images.labels, names, held)
        mask = choose_validation(contents.hashes[kept], images.labels[kept], names, config)
        order = np.concatenate([kept[~mask], kept[mask]])
        count = int((~mask).sum())
        return EncodedSplits(
            (self._part(images, contents, order),),
            slice(0, count),
            slice(count, len(order)),
            names,
            self.image_shape,
            (*images.notes, config.describe(mask, images.labels[kept], len(names))),
            available=len(images.labels),
            validation=config,
        )

    def _cut(self, images: EncodedImages, order: Indices) -> EncodedImages:
        """Return the images at `order` (M,): those of a tail that is cut are in no order of their files."""
        chosen = images.select(order)
        return chosen if self.long_tail.kind == "none" else chosen.scattered_in_memory()

    def _part(self, images: EncodedImages, contents: Contents, order: Indices) -> Part:
        chosen = self._cut(images, order)
        known = contents.select(order)
        if chosen.items and isinstance(chosen.items[0], bytes):
            known = Contents(known.hashes, [])
        return Part(chosen, known)

    def _kept(
        self, labels: Indices, names: tuple[str, ...], held_out: NDArray[np.bool_] | None = None
    ) -> Indices:
        return long_tail_indices(
            labels, len(names), self.long_tail, class_names=names, held_out=held_out
        )


def _of_split(split: str, note: Note) -> Note:
    return replace(note, text=f"{split}: {note.text}")


def _numbered(splits: Sequence[EncodedImages]) -> list[str]:
    """Return class names for labels without names: the numbers from 0 to the largest label.

    Raises:
        DataProblem: numbers that start at 1 or have gaps; reported before a mistyped label fills the
            memory with names.
    """
    known = np.unique(np.concatenate([split.labels for split in splits]))
    known = known[known >= 0]  # others are named by `check_labels`
    if len(known) and known[0] == 1 and known[-1] == len(known):
        raise DataProblem(
            f"{splits[0].name(0)}: labels start at 1; they count from 0 without gaps",
            "subtract 1 from every label",
        )
    gaps = np.flatnonzero(known != np.arange(len(known)))
    if gaps.size:
        split = next(split for split in splits if known[-1] in split.labels)
        raise DataProblem(
            f"{split.name(int(split.labels.argmax()))}: label {known[-1]}, but no image has label "
            f"{gaps[0]}",
            "labels count from 0 without gaps: correct them, or add images of that class",
        )
    return [str(c) for c in range(len(known))]
