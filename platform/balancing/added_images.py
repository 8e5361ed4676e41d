"""The images that a classifier is trained on besides the real ones: copies, or generated images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...trainers.data import PackedImages
from ...trainers.errors import DataProblem, UsageProblem
from ..evaluation.arrays import Ints
from .augmentation import AUGMENTATION, augment
from .filling import Counts, Filled


@dataclass(frozen=True, eq=False)
class AddedImages:
    """Rows of the real training images or of the generated ones: small, whatever the images' size."""

    origin: Literal["real", "generated"]
    rows: Ints
    """(M,) of the training images, or of the generated ones as they lie in `Filled`; class by class."""
    counts: Counts
    """(C,) images of each class."""
    depends_on: list[Any]
    """What the images depend on besides the training images, as JSON types."""
    augmentation_seed: int | None = None
    """Of what changes each of them; None: they stay as they are."""

    def make(self, real: PackedImages, generated: PackedImages | None) -> PackedImages:
        """Return the images.

        Args:
            real: the training images.
            generated: all generated images; None where `origin` is real.
        """
        images = real if self.origin == "real" else generated
        assert images is not None
        some = images.select(self.rows)
        return some if self.augmentation_seed is None else augment(some, self.augmentation_seed)


def wanted_counts(train_counts: Counts, per_class: int | None, fill_to: int | None) -> Counts:
    """Return how many images of each class to generate, (C,) int64.

    Args:
        per_class: this many of every class; CBDM has 500 for each of CIFAR-100's classes.
        fill_to: as many as a class lacks of this number of real images, DiffuLT's N_t.

    Raises:
        UsageProblem: both or neither, a number below 1, or nothing to generate.
    """
    if (per_class is None) == (fill_to is None):
        raise UsageProblem(
            "it is not clear how many images to generate",
            "give one of --per-class N (N of each class) and --fill-to N (what a class lacks of N)",
        )
    name, number = ("--per-class", per_class) if fill_to is None else ("--fill-to", fill_to)
    assert number is not None
    if number < 1:
        raise UsageProblem(f"{name} is {number}", "give at least 1")
    if fill_to is None:
        return np.full(len(train_counts), number, dtype=np.int64)
    return lacking_counts(train_counts, number, name)


def lacking_counts(train_counts: Counts, to: int, name: str = "balancing.to") -> Counts:
    """Return how many images each class lacks of a number, (C,) int64.

    Args:
        train_counts: (C,) real images of each class.
        to: DiffuLT's N_t.
        name: of the option or key that gives it.

    Raises:
        UsageProblem: no class lacks any.
    """
    lacking: Counts = np.maximum(0, to - train_counts)
    if not lacking.any():
        least, most = train_counts.min(), train_counts.max()
        if least == most:
            raise UsageProblem(
                f"{name} is {to}, and every class already has {least:,} real images",
                f"give more than {least}",
            )
        raise UsageProblem(
            f"{name} is {to}, and every class already has that many real images: {least:,} to {most:,}",
            f"give more than {least}; {most} fills every class up to the largest one",
        )
    return lacking


def repeat_real_images(real: PackedImages, counts: Counts) -> AddedImages | None:
    """Return `counts[c]` copies of the images of each class c, in order, starting over at the end.

    Returns None where there is nothing to add, which makes the arm `real`.

    Args:
        counts: (C,) int64.

    Raises:
        DataProblem: a class to copy has no image.
    """
    if not counts.any():
        return None
    if (without := (real.class_counts == 0) & (counts > 0)).any():
        raise DataProblem(
            f"class {real.class_names[int(without.argmax())]} has no real image to repeat",
            "leave the arms with copies of real images out: --no-control",
        )
    rows = [np.resize(np.flatnonzero(real.labels == c), n) for c, n in enumerate(counts)]
    return AddedImages("real", np.concatenate(rows), counts, ["repeated", counts.tolist()])


def augment_real_images(real: PackedImages, counts: Counts, seed: int) -> AddedImages | None:
    """Return the copies of `repeat_real_images`, each changed once.

    Args:
        counts: (C,) int64.
        seed: with class and index among the class's copies it decides the change.

    Raises:
        DataProblem: a class to copy has no image.
    """
    copies = repeat_real_images(real, counts)
    if copies is None:
        return None
    depends_on = ["augmented", AUGMENTATION, seed, counts.tolist()]
    return AddedImages("real", copies.rows, counts, depends_on, seed)


def take_generated(filled: Filled, rows: Ints) -> AddedImages | None:
    """Return the generated images at some rows (M,), ascending; None where there are none.

    They are known by checkpoint, sampling, seed, class and index, so that none has to exist.
    """
    if not len(rows):
        return None
    labels, indices = filled.labels[rows], filled.indices[rows]
    which = hashlib.sha256(np.stack([labels, indices]).astype("<i8").tobytes()).hexdigest()
    source = filled.source
    counts = np.bincount(labels, minlength=source.splits.train.num_classes).astype(np.int64)
    return AddedImages("generated", rows, counts, [source.samples_folder.rpartition("/")[2], which])
