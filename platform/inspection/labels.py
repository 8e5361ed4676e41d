"""Numbers of classes: that they count from 0 without gaps, and fit the names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...trainers.data.packed import Indices
from ...trainers.data.report import counted, listed
from .facts import Finding


def name_classes(
    labels: Indices, names: Sequence[str] | None, name: Callable[[int], str]
) -> tuple[tuple[str, ...], Indices, list[Finding]]:
    """Return the classes of labels (N,), the labels as ids of these classes, and what is wrong.

    Labels that do not fit are numbered anew, so that the images can be looked at all the same.

    Args:
        names: None where labels are numbers only.
        name: gives what findings call the image at an index.
    """
    known, first = np.unique(labels, return_index=True)
    expected = len(names) if names is not None else len(known)
    if not len(known) or (known[0] == 0 and known[-1] < expected):
        every = tuple(names) if names is not None else tuple(str(c) for c in known)
        return every, labels, _without_images(every, known)
    from_one = known[0] == 1 and known[-1] == expected
    outside = known[(known < 0) | (known >= expected)]
    example = name(int(first[np.flatnonzero(known == outside[0])[0]]))
    fix = "labels count from 0 without gaps: correct them, or add images of what is missing"
    if from_one:
        text, fix = (
            f"labels start at 1 ({example})",
            "labels count from 0: subtract 1 from every label",
        )
    elif names is not None:
        text = f"label {outside[0]} is outside the {counted(expected, 'names')} ({example})"
    else:
        gaps = np.setdiff1d(np.arange(known[-1]), known)[:10] if known[-1] < 10**6 else known[:0]
        missing = f"; no image has label {listed([str(c) for c in gaps])}" if len(gaps) else ""
        text = f"labels are not the numbers from 0 to {expected - 1}: one is {outside[0]} ({example}){missing}"
    finding = Finding("labels", "error", len(outside), text, fix, (example,))
    if from_one and names is not None:
        return tuple(names), labels - 1, [finding]
    return tuple(str(c) for c in known), np.searchsorted(known, labels), [finding]


def _without_images(names: Sequence[str], known: Indices) -> list[Finding]:
    absent = [f"{c} ({name})" for c, name in enumerate(names) if c not in set(known.tolist())]
    if not absent:
        return []
    text = f"no image of {counted(len(absent), 'classes')}: {listed(absent)}"
    fix = "add images, or leave the names out"
    return [Finding("empty class", "error", len(absent), text, fix, tuple(absent[:3]))]
