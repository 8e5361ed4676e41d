"""What is to be said of images that a source has more than once: as equal files, or nearly alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...trainers.data.packed import Indices
from .facts import EXAMPLES, Finding, Severity
from .headers import Headers
from .listing import Listing
from .looks import Looks
from .near import near_pairs

LEAST_SIDE = 24
"""Shorter side from which images are compared closely; smaller ones have too little structure for it."""


def equal_pairs(headers: Headers) -> Indices:
    """Return pairs of equal files, (number of pairs, 2): each file with the first of its equals."""
    indices = headers.readable()
    _, first, group = np.unique(
        headers.content[indices], axis=0, return_index=True, return_inverse=True
    )
    original = indices[first[group.ravel()]]
    later = original != indices
    return np.stack([original[later], indices[later]], axis=1)


def near_copies(
    headers: Headers, looks: Looks, equal: Indices, on_progress: Callable[[int], None]
) -> Indices:
    """Return pairs of images that are near copies, but no equal files, (number of pairs, 2)."""
    rows = ~np.isin(looks.indices, equal[:, 1]) & ~looks.one_colour
    rows &= headers.size[looks.indices].min(axis=1) >= LEAST_SIDE
    chosen = looks.indices[rows]
    pairs: Indices = chosen[near_pairs(looks.small[rows], on_progress)]
    return pairs.reshape(-1, 2)


def describe_copies(
    listing: Listing, equal: Indices, near: Indices, looked: int
) -> Iterator[Finding]:
    """Yield what is to be said of both kinds: within a class, across classes, across splits.

    Args:
        looked: number of images that were compared for near copies.
    """
    total = len(listing.labels)
    for kind, pairs, of, are, one_is, within in (
        ("equal", equal, total, "equal to", "is", _EQUAL_WITHIN),
        ("near copies", near, looked, "near copies of", "is like", _NEAR_WITHIN),
    ):
        first, second = pairs.T
        split = listing.reference[first] != listing.reference[second]
        label = listing.labels[first] != listing.labels[second]
        for where, chosen, what, fix in (
            (
                " across splits",
                split,
                "the other split, so that metrics reward copies",
                _ACROSS_SPLITS,
            ),
            (" across classes", label & ~split, "another class", _ACROSS_CLASSES),
            ("", ~label & ~split, "the same class", within),
        ):
            if not chosen.any():
                continue
            selected = pairs[chosen]
            count = len(np.unique(selected[:, 1]))
            examples = tuple(
                f"{listing.name(int(b))} {one_is} {listing.name(int(a))}"
                for a, b in selected[:EXAMPLES]
            )
            severity: Severity = "warning" if where or kind == "equal" else "info"
            text = f"{are} images of {what}: {count:,} of {of:,} images ({examples[0]})"
            yield Finding(f"{kind}{where}", severity, count, text, fix, examples)


_ACROSS_SPLITS = "remove them from the reference"
_ACROSS_CLASSES = "decide for one class, and remove the others"
_EQUAL_WITHIN = "remove them, unless they shall count more than once"
_NEAR_WITHIN = "look at them: they count more than once, and may be on both sides of a hold-out"
