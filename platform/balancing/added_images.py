"""The images that a classifier is trained on besides the real ones: generated images, or copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...trainers.data import PackedImages
from ...trainers.errors import DataProblem, UsageProblem
from .filling import Counts


@dataclass(frozen=True)
class AddedImages:
    """Images that are made when they are needed."""

    depends_on: list[Any]
    """What they depend on besides the real images, as JSON types."""
    make: Callable[[], PackedImages]


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
    lacking = np.maximum(0, number - train_counts)
    if not lacking.any():
        raise UsageProblem(
            f"--fill-to is {number}, and every class already has that many real images",
            f"give more than {train_counts.min()}",
        )
    return lacking


def repeat_real_images(real: PackedImages, counts: Counts) -> AddedImages | None:
    """Return `counts[c]` copies of the images of each class c, in order, starting over at the end.

    Returns None where there is nothing to add, which makes the arm `real`.

    Args:
        counts: (C,) int64.
    """
    if not counts.any():
        return None

    def make() -> PackedImages:
        if (without := (real.class_counts == 0) & (counts > 0)).any():
            raise DataProblem(
                f"class {real.class_names[int(without.argmax())]} has no real image to repeat",
                "leave the arm with repeated images out: --no-control",
            )
        rows = [np.resize(np.flatnonzero(real.labels == c), n) for c, n in enumerate(counts)]
        return real.select(np.concatenate(rows))

    return AddedImages(["repeated", counts.tolist()], make)
