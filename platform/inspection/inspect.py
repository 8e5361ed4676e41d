"""An inspection of images: what a source holds, and what of it is not as it should be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from ...trainers.data import DataConfig, HoldOut
from ...trainers.data.report import counted, listed
from .facts import EXAMPLES, SEVERITIES, ClassFacts, Finding, Inspection, Sizes
from .headers import DEEP, Headers, read_headers
from .listing import Listing
from .source import list_source

BROKEN_SHOWN = 10
"""Broken images that are named."""


def inspect(config: DataConfig, on_progress: Callable[[str], None] = lambda _: None) -> Inspection:
    """Look at all images of a source: classes, sizes, kinds, and what is wrong with them.

    Args:
        on_progress: gets a line that says what is being done.

    Raises:
        UsageProblem: a source without files of images.
        DataProblem: a folder or file that cannot be read at all.
    """
    started = time.monotonic()
    on_progress("listing images")
    listing = list_source(config)
    count = len(listing.labels)
    headers = read_headers(
        listing, lambda done: on_progress(f"reading headers: {done:,} of {count:,} images")
    )
    findings = [*listing.findings, *_of_headers(listing, headers)]
    return Inspection(
        config.model_dump(mode="json", exclude_unset=True) | {"source": config.source},
        tuple(_classes(listing, getattr(config, "hold_out", HoldOut()))),
        count,
        _sizes(headers),
        dict(sorted(headers.kinds.items(), key=lambda item: -item[1])),
        dict(sorted(headers.formats.items(), key=lambda item: -item[1])),
        tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        0,
        time.monotonic() - started,
    )


def _classes(listing: Listing, hold_out: HoldOut) -> Iterator[ClassFacts]:
    compared = bool(listing.reference.any())
    counts = zip(listing.class_names, listing.counts(False), listing.counts(True), strict=True)
    for name, count, reference in counts:
        held_out = 0 if compared else hold_out.expected(int(count))
        yield ClassFacts(name, int(count), held_out, int(count) - held_out, int(reference))


def _sizes(headers: Headers) -> Sizes | None:
    sizes = headers.size[headers.readable()]
    if not len(sizes):
        return None
    short = sizes.min(axis=1)
    order = np.lexsort((sizes.max(axis=1), short))
    width, height = np.median(sizes, axis=0)
    shares = np.percentile(short, [5, 25, 50, 75, 95], method="lower")
    a, b, c, d, e = (int(share) for share in shares)

    def at(rank: int) -> tuple[int, int]:
        w, h = sizes[order[rank]]
        return int(w), int(h)

    not_square = float(np.mean(sizes[:, 0] != sizes[:, 1]))
    return Sizes(at(0), (int(width), int(height)), at(-1), (a, b, c, d, e), not_square)


def _of_headers(listing: Listing, headers: Headers) -> Iterator[Finding]:
    total = len(listing.labels)
    for kind, indices, text in (
        ("turned", np.flatnonzero(headers.turned), "turned or mirrored as their EXIF data say"),
        ("frames", np.flatnonzero(headers.frames), "with several frames, only the first is used"),
    ):
        if len(indices):
            examples = tuple(listing.name(int(i)) for i in indices[:EXAMPLES])
            yield Finding(
                kind, "info", len(indices), f"{len(indices)} of {total} images {text}", "", examples
            )
    if headers.deep:
        examples = tuple(listing.name(i) for i in headers.deep[:EXAMPLES])
        yield Finding(
            "deep",
            "error",
            len(headers.deep),
            f"{counted(len(headers.deep), 'images')} of {DEEP}, which would be clipped",
            "convert them to 8 bits a channel, with the contrast that you want",
            examples,
        )
    if headers.broken:
        named = [f"{listing.name(i)} ({why})" for i, why in sorted(headers.broken.items())]
        yield Finding(
            "broken",
            "error",
            len(named),
            f"{counted(len(named), 'images')} cannot be read: {listed(named)}",
            "replace them, or leave them out",
            tuple(named[:BROKEN_SHOWN]),
        )
