"""Which images a datasheet shows: some classes, and some images of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....trainers.data import PackedImages
from ...evaluation.arrays import Ints
from .content import ClassExamples, RealClass, Rejected
from .counts import criteria_of
from .manifest import GeneratedRows

LARGE = 32
"""Pixels a side above which fewer images are shown: they make up most of a page's bytes."""


@dataclass(frozen=True)
class Shown:
    """How many images a datasheet shows."""

    classes: int
    """Half of them lost the largest share of their images, half go from head to tail."""
    tiles: int
    """Images of each kind of a class."""
    pairs: int
    """Near copies beside their training images."""


def shown(side: int) -> Shown:
    """Return it for images of so many pixels a side."""
    return Shown(12, 6, 24) if side <= LARGE else Shown(8, 4, 12)


def choose_examples(
    classes: Sequence[RealClass],
    generated: GeneratedRows,
    real: PackedImages,
) -> list[ClassExamples]:
    """Return images of some of the classes that have generated ones, from head to tail.

    Generated images of a class are independent of each other, so the first ones stand for all. Rejected
    ones are taken in turn from each criterion.

    Args:
        classes: by class id.
        generated: all generated images.
        real: the training images.
    """
    examples, limits = [], shown(max(real.image_shape[1:]))
    for c in _classes(classes, generated, limits.classes):
        rows = np.flatnonzero(generated.labels == c)
        kept = rows[generated.kept[rows]][: limits.tiles]
        rejected = _in_turn(rows[~generated.kept[rows]], generated, limits.tiles)
        images = generated.read(np.concatenate([kept, rejected]))
        examples.append(
            ClassExamples(
                c,
                real.images[np.flatnonzero(real.labels == c)[: limits.tiles]],
                images[: len(kept)],
                [
                    Rejected(image, generated.reasons[row])
                    for image, row in zip(images[len(kept) :], rejected.tolist(), strict=True)
                ],
            )
        )
    return examples


def _classes(classes: Sequence[RealClass], generated: GeneratedRows, limit: int) -> list[int]:
    """Return class ids from head to tail."""
    n = len(classes)
    made = np.bincount(generated.labels, minlength=n)
    lost = np.bincount(generated.labels, ~generated.kept, minlength=n) / np.maximum(made, 1)
    order = sorted(np.flatnonzero(made).tolist(), key=lambda c: (-classes[c].train_count, c))
    if len(order) <= limit:
        return order
    worst = sorted(order, key=lambda c: -lost[c])[: limit // 2]
    others = [c for c in order if c not in worst]
    spread = np.linspace(0, len(others) - 1, limit - len(worst)).round().astype(int)
    chosen = {*worst, *(others[i] for i in spread)}
    return [c for c in order if c in chosen]


def _in_turn(rows: Ints, generated: GeneratedRows, limit: int) -> Ints:
    """Return the first image of each reason, then the second of each, ..., at most `limit`."""
    seen: dict[str, int] = {}
    turns = []
    for row in rows.tolist():
        kind = " ".join(criteria_of(generated.reasons[row]))
        seen[kind] = seen.get(kind, 0) + 1
        turns.append(seen[kind])
    return rows[np.argsort(turns, kind="stable")[:limit]]
