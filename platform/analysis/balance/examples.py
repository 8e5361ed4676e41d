"""Which images a datasheet shows: some classes, and some images of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ....trainers.data import PackedImages
from ...evaluation.arrays import Ints, Pixels
from .datasheet import ClassExamples, GeneratedImages, RealClass, Rejected

CLASSES = 12
"""That are shown: half of them lost the largest share of their images, half go from head to tail."""
TILES = 6
"""Images of each kind."""


def choose_examples(
    classes: Sequence[RealClass],
    generated: GeneratedImages,
    read: Callable[[Ints], Pixels],
    real: PackedImages,
) -> list[ClassExamples]:
    """Return images of some of the classes that have generated ones, from head to tail.

    Generated images of a class are independent of each other, so the first ones stand for all. Rejected
    ones are taken in turn from each criterion.

    Args:
        classes: by class id.
        generated: all generated images.
        read: returns generated images (n, C, H, W) by their rows (n,).
        real: the training images.
    """
    examples = []
    for c in _classes(classes, generated):
        rows = np.flatnonzero(generated.labels == c)
        kept = rows[generated.kept[rows]][:TILES]
        rejected = _in_turn(rows[~generated.kept[rows]], generated)
        images = read(np.concatenate([kept, rejected]))
        examples.append(
            ClassExamples(
                c,
                real.images[np.flatnonzero(real.labels == c)[:TILES]],
                images[: len(kept)],
                [
                    Rejected(image, generated.reasons[row], generated.value(row))
                    for image, row in zip(images[len(kept) :], rejected.tolist(), strict=True)
                ],
            )
        )
    return examples


def _classes(classes: Sequence[RealClass], generated: GeneratedImages) -> list[int]:
    """Return class ids from head to tail."""
    n = len(classes)
    made = np.bincount(generated.labels, minlength=n)
    lost = np.bincount(generated.labels, ~generated.kept, minlength=n) / np.maximum(made, 1)
    order = sorted(np.flatnonzero(made).tolist(), key=lambda c: (-classes[c].train_count, c))
    if len(order) <= CLASSES:
        return order
    worst = sorted(order, key=lambda c: -lost[c])[: CLASSES // 2]
    others = [c for c in order if c not in worst]
    spread = np.linspace(0, len(others) - 1, CLASSES - len(worst)).round().astype(int)
    chosen = {*worst, *(others[i] for i in spread)}
    return [c for c in order if c in chosen]


def _in_turn(rows: Ints, generated: GeneratedImages) -> Ints:
    """Return the first image of each reason, then the second of each, ..., at most `TILES`."""
    seen: dict[str, int] = {}
    turns = []
    for row in rows.tolist():
        reason = generated.reasons[row]
        seen[reason] = seen.get(reason, 0) + 1
        turns.append(seen[reason])
    return rows[np.argsort(turns, kind="stable")[:TILES]]
