"""How many images each class and each group has, real, generated and rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...evaluation.arrays import Bools, Ints
from .content import RealClass
from .manifest import GeneratedRows

GROUPS = ("many", "medium", "few")


@dataclass(frozen=True)
class Count:
    """A class, or several."""

    name: str
    group: str
    position: int
    """Of its first class in `Datasheet.classes`."""
    classes: int
    real: int
    kept: int
    rejected: int
    rejected_by: tuple[int, ...]
    """By each criterion of `ImageCounts.criteria`; an image may be rejected by several."""
    copies: int
    """Near copies among the generated images."""
    kept_copies: int
    borrowed: bool

    @property
    def generated(self) -> int:
        """Images that were generated."""
        return self.kept + self.rejected

    @property
    def total(self) -> int:
        """Training images of the data set."""
        return self.real + self.kept

    @property
    def lost(self) -> float:
        """Share of the generated images that are rejected, in [0, 1]."""
        return self.rejected / self.generated if self.generated else 0.0


@dataclass(frozen=True)
class ImageCounts:
    """All counts."""

    criteria: tuple[str, ...]
    """Names of those that rejected an image."""
    classes: tuple[Count, ...]
    """From the most to the fewest training images."""
    groups: tuple[Count, ...]
    """Overall first, then those that have classes."""

    @property
    def overall(self) -> Count:
        """All classes."""
        return self.groups[0]


def count_images(classes: Sequence[RealClass], generated: GeneratedRows) -> ImageCounts:
    """Return the counts of each class and group."""
    n = len(classes)

    def by_class(rows: Bools) -> Ints:
        of_class: Ints = np.bincount(generated.labels[rows], minlength=n)
        return of_class

    kept, rejected = by_class(generated.kept), by_class(~generated.kept)
    failed = [set(criteria_of(reason)) for reason in generated.reasons]
    criteria = tuple(sorted(set().union(*failed))) if failed else ()
    by = [by_class(np.array([c in names for names in failed], np.bool_)) for c in criteria]
    copies = by_class(generated.near_copy)
    kept_copies = by_class(generated.near_copy & generated.kept)

    def counted(name: str, group: str, members: Sequence[int]) -> Count:
        at = list(members)
        return Count(
            name,
            group,
            at[0],
            len(at),
            sum(classes[c].train_count for c in at),
            int(kept[at].sum()),
            int(rejected[at].sum()),
            tuple(int(of[at].sum()) for of in by),
            int(copies[at].sum()),
            int(kept_copies[at].sum()),
            any(classes[c].borrowed for c in at),
        )

    order = sorted(range(n), key=lambda c: (-classes[c].train_count, c))
    names = [g for g in GROUPS if any(of.group == g for of in classes)]
    return ImageCounts(
        criteria,
        tuple(counted(classes[c].name, classes[c].group, [c]) for c in order),
        (
            counted("overall", "overall", order),
            *(counted(g, g, [c for c in order if classes[c].group == g]) for g in names),
        ),
    )


def criteria_of(reason: str) -> list[str]:
    """Return the criteria that a reason names: `probability` of `probability 3e-09 < 5e-07`."""
    return [part.split()[0] for part in reason.split("; ") if part]
