"""Classes, their numbers of images, and the sizes of the images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from ...trainers.data.encoded_config import EncodedConfig
from ...trainers.data.hold_out import HoldOut, hold_out
from ...trainers.data.report import counted, listed, shown
from .facts import EXAMPLES, ClassFacts, Finding, Sizes
from .headers import Headers
from .listing import Listing

MOST_HAVE = 0.5
"""Share of the images that have one size, from which smaller ones are named."""
MUCH_SMALLER = 0.5
"""Shorter side, as a share of the median, below which an image is named where sizes differ."""


def count_classes(listing: Listing, headers: Headers, config: EncodedConfig) -> list[ClassFacts]:
    """Return the classes with the number of images that would be held out of each."""
    train = listing.counts(False)
    held_out = np.zeros_like(train)
    if not listing.reference.any() and len(listing.labels):
        hashes = headers.content[:, 1]
        held = hold_out(hashes, listing.labels, len(train), config.hold_out)
        held_out = np.bincount(listing.labels[held.mask], minlength=len(train))
    return [
        ClassFacts(name, int(count), int(held), int(count - held), int(reference))
        for name, count, held, reference in zip(
            listing.class_names, train, held_out, listing.counts(True), strict=True
        )
    ]


def describe_classes(classes: list[ClassFacts], config: HoldOut) -> Iterator[Finding]:
    """Yield what is to be said of the numbers of images."""
    if not any(each.count for each in classes):
        yield Finding("no images", "error", 1, "there is no image to train on", "add images")
        return
    single = [shown(each.name) for each in classes if each.count == 1]
    if single:
        yield Finding(
            "one image",
            "warning",
            len(single),
            f"{_classes(len(single))} with one image, which a model can only copy: {listed(single)}",
            "add images, or leave the class out",
            tuple(single[:EXAMPLES]),
        )
    if any(each.reference for each in classes):
        return
    kept = [shown(each.name) for each in classes if each.count and not each.held_out]
    if kept:
        yield Finding(
            "too small to hold out",
            "warning",
            len(kept),
            f"{_classes(len(kept))} too small to hold images out, compared with training images: "
            + listed(kept),
            f"at least some {_least(config)} images are needed for it",
            tuple(kept[:EXAMPLES]),
        )


def _least(config: HoldOut) -> int:
    """Return the images of a class of which, in expectation, enough are held out and remain."""
    return next(count for count in itertools.count(1) if config.expected(count))


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"


def describe_sizes(headers: Headers) -> Sizes | None:
    """Return the sizes of the images; None where none can be read."""
    sizes = headers.size[headers.readable()]
    if not len(sizes):
        return None
    short = sizes.min(axis=1)
    order = np.lexsort((sizes.max(axis=1), short))
    (width, height), (least, most) = np.median(sizes, axis=0), sizes[order[[0, -1]]]
    a, b, c, d, e = map(int, np.percentile(short, [5, 25, 50, 75, 95], method="lower"))
    return Sizes(
        (int(least[0]), int(least[1])),
        (int(width), int(height)),
        (int(most[0]), int(most[1])),
        (a, b, c, d, e),
        float(np.mean(sizes[:, 0] != sizes[:, 1])),
    )


def describe_small(listing: Listing, headers: Headers) -> Iterator[Finding]:
    """Yield the images that are smaller than most of them."""
    readable = headers.readable()
    if not len(readable):
        return
    sizes = headers.size[readable]
    short = sizes.min(axis=1)
    kinds, counts = np.unique(sizes, axis=0, return_counts=True)
    common = kinds[counts.argmax()]
    if counts.max() >= MOST_HAVE * len(readable):
        small, than = short < common.min(), f"{common[0]} x {common[1]}, the size of most"
    else:
        limit = MUCH_SMALLER * np.median(short)
        small, than = short < limit, f"{int(limit)} pixels, half of the median"
    if not small.any():
        return
    examples = [
        f"{listing.name(int(i))} ({w} x {h})"
        for i, (w, h) in zip(readable[small], sizes[small], strict=True)
    ]
    count = len(examples)
    yield Finding(
        "small",
        "info",
        count,
        f"{count:,} of {counted(len(readable), 'images')} smaller than {than}: {examples[0]}",
        "replace them by larger ones, or choose a data.image_size that they have",
        tuple(examples[:EXAMPLES]),
    )
