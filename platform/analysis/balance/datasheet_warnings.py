"""What to know before using a balanced data set."""

from __future__ import annotations

import numpy as np

from ....trainers.data.report import listed, shown
from .content import Datasheet
from .counts import Count, ImageCounts

LOST = 0.5
"""Share of a class's generated images from which on its loss is named."""
COPIES = 0.01
"""Share of near copies among the kept generated images that is named."""
FEW = 10
"""Real images of a class below which its generated ones derive from very little."""


def datasheet_warnings(sheet: Datasheet, counts: ImageCounts) -> tuple[str, ...]:
    """Return a line for everything that makes the data set worth less than its size."""
    lines = [
        _lost(counts, sheet.fill_to),
        _copies(counts.overall),
        _few_real(counts),
        _unlikely(sheet),
        _borrowed(counts),
        *sheet.warnings,
    ]
    return tuple(line for line in lines if line)


def _lost(counts: ImageCounts, fill_to: int) -> str:
    lost = sorted((c for c in counts.classes if c.lost >= LOST), key=lambda c: -c.lost)
    if not lost:
        return ""
    names = listed([f"{shown(c.name)} ({c.rejected:,} of {c.generated:,})" for c in lost])
    least = min(lost, key=lambda c: c.total)
    return (
        f"the filter rejects at least half of the generated images of {_classes(len(lost))}: {names}; "
        f"{shown(least.name)} has {least.total:,} images where {fill_to:,} were asked for"
    )


def _copies(overall: Count) -> str:
    if not overall.kept_copies or overall.kept_copies < COPIES * overall.kept:
        return ""
    return (
        f"{overall.kept_copies:,} of {overall.kept:,} kept generated images are near copies of training "
        "images, which they repeat rather than add to; --filter no_copies leaves them out"
    )


def _few_real(counts: ImageCounts) -> str:
    few = [c for c in counts.classes if c.real < FEW and c.kept]
    if not few:
        return ""
    names = listed([f"{shown(c.name)} ({c.real} real, {c.kept:,} generated)" for c in few])
    return (
        f"{_classes(len(few))} with fewer than {FEW} real images: {names}; however many images are "
        "generated, they show what these few and the other classes show"
    )


def _unlikely(sheet: Datasheet) -> str:
    probability, chance = sheet.generated.probability, 1 / len(sheet.classes)
    if not len(probability) or np.median(probability) >= chance:
        return ""
    return (
        f"f_0 gives the class asked for a probability of {np.median(probability):.2g} (median), less than "
        f"chance ({chance:.2g}): the model does not generate these classes, or f_0 does not know them "
        "(classification.epochs) and the filters by it say nothing"
    )


def _borrowed(counts: ImageCounts) -> str:
    names = [shown(c.name) for c in counts.classes if c.borrowed]
    if not names:
        return ""
    return (
        f"the test images of {listed(names)} are training images too, since there were too few to hold "
        "some out: accuracy on them says nothing"
    )


def _classes(n: int) -> str:
    return f"{n:,} class" if n == 1 else f"{n:,} classes"
