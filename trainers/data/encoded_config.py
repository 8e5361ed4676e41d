"""A source of encoded images: its settings, and how two splits become pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ..errors import DataProblem
from .decoding import EncodedImages, decode
from .long_tail import long_tail_indices
from .packed import PackedImages, check_every_class, check_labels, check_names
from .pixels import describe_treatments
from .repeats import Hashed, describe_repeats
from .report import DataReport, Note
from .source import SourceConfig, Splits


class EncodedConfig(SourceConfig):
    """A source of encoded images, which may differ in size."""

    image_size: int = Field(default=64, ge=1)
    """Height and width in pixels. Other images are cropped to the square at their centre and
    resized; 64 is what CBDM uses for ImageNet-LT."""
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for grey."""

    def pack(
        self,
        cache: Path,
        train: EncodedImages,
        reference: EncodedImages,
        class_names: Sequence[str] | None,
    ) -> Splits:
        """Check the labels, cut the tail, and decode the images that are kept.

        Args:
            class_names: None to number the classes, from 0 to the largest label.

        Raises:
            DataProblem: a label outside the classes, a class without an image, or an image that
                cannot be decoded.
        """
        if class_names is None:
            class_names = _numbered(train, reference)
        check_names(class_names)
        for where, split in (("training", train), ("reference", reference)):
            check_labels(split.labels, len(class_names), split.name)
            fix = "add images of it, or leave the class out"
            check_every_class(split.labels, class_names, f"{where} images", fix)
        kept = long_tail_indices(
            train.labels, len(class_names), self.long_tail, class_names=class_names
        )
        chosen = train.select(kept)
        ours, theirs = (
            decode(split, self.image_size, self.channels, cache) for split in (chosen, reference)
        )
        names = tuple(class_names)
        return Splits(
            PackedImages(ours.pixels, chosen.labels, names),
            PackedImages(theirs.pixels, reference.labels, names),
            DataReport(
                (
                    *(_of_split("train", note) for note in train.notes),
                    *(_of_split("reference", note) for note in reference.notes),
                    *describe_treatments([ours.treatments, theirs.treatments]),
                    *describe_repeats(
                        Hashed(ours.hashes, chosen.labels, chosen.name),
                        Hashed(theirs.hashes, reference.labels, reference.name),
                    ),
                )
            ),
            available=len(train.labels),
        )


def _of_split(split: str, note: Note) -> Note:
    return replace(note, text=f"{split}: {note.text}")


def _numbered(train: EncodedImages, reference: EncodedImages) -> list[str]:
    """Return class names for labels without names: the numbers from 0 to the largest label.

    Raises:
        DataProblem: numbers that start at 1 or have gaps; reported before a mistyped label fills the
            memory with names.
    """
    known = np.unique(np.concatenate([train.labels, reference.labels]))
    known = known[known >= 0]  # others are named by `check_labels`
    if len(known) and known[0] == 1 and known[-1] == len(known):
        raise DataProblem(
            f"{train.name(0)}: labels start at 1; they count from 0 without gaps",
            "subtract 1 from every label",
        )
    gaps = np.flatnonzero(known != np.arange(len(known)))
    if gaps.size:
        split = train if known[-1] in train.labels else reference
        raise DataProblem(
            f"{split.name(int(split.labels.argmax()))}: label {known[-1]}, but no image has label "
            f"{gaps[0]}",
            "labels count from 0 without gaps: correct them, or add images of that class",
        )
    return [str(c) for c in range(len(known))]
