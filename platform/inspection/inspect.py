"""An inspection of images: what a source holds, and what of it is not as it should be."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from ...trainers.data import DataConfig
from ...trainers.data.encoded_config import EncodedConfig
from ...trainers.data.packed import Indices
from ...trainers.data.report import counted, listed
from .copies import describe_copies, equal_pairs, near_copies
from .counts import count_classes, describe_classes, describe_sizes, describe_small
from .facts import EXAMPLES, SEVERITIES, Finding, Inspection, Severity
from .headers import DEEP, Headers, complete_hashes, read_headers
from .listing import Listing
from .looks import Looks, choose_images, look_into
from .names import describe_names
from .source import list_source

BROKEN_SHOWN = 10
"""Broken images that are named."""


def inspect(
    config: DataConfig,
    on_progress: Callable[[str], None] = lambda _: None,
    *,
    thorough: bool = False,
) -> Inspection:
    """Look at all images of a source: classes, sizes, kinds, and what is wrong with them.

    The header of every image is read. Decoded, and compared with one another, are all where there are not too
    many, else the same number of each class; `Inspection.looked_at` says how many.

    Args:
        on_progress: gets a line that says what is being done.
        thorough: decode every image, however many there are.

    Raises:
        UsageProblem: a source without files of images.
        DataProblem: a folder or file that cannot be read at all.
    """
    started = time.monotonic()
    on_progress("listing images")
    listing = list_source(config)
    assert isinstance(config, EncodedConfig)  # as `list_source` has checked
    count = f"{len(listing.labels):,}"
    headers = read_headers(
        listing, lambda done: on_progress(f"reading headers: {done:,} of {count} images")
    )
    complete_hashes(listing, headers)
    chosen = choose_images(listing, headers, thorough)
    looks = look_into(
        listing, chosen, lambda done: on_progress(f"decoding: {done:,} of {len(chosen):,} images")
    )
    equal = equal_pairs(headers)
    near = near_copies(
        headers,
        looks,
        equal,
        lambda done: on_progress(f"comparing: {done:,} of {len(chosen):,} images"),
    )
    classes = count_classes(listing, headers, config)
    findings = [
        *listing.findings,
        *_broken(listing, headers.broken | looks.broken),
        *describe_classes(classes, config.hold_out),
        *describe_names(listing.class_names),
        *describe_copies(listing, equal, near, len(looks.indices)),
        *describe_small(listing, headers),
        *_of_images(listing, headers, looks),
    ]
    return Inspection(
        config.model_dump(mode="json", exclude_unset=True) | {"source": config.source},
        tuple(classes),
        len(listing.labels),
        describe_sizes(headers),
        dict(Counter(headers.kinds).most_common()),
        dict(Counter(headers.formats).most_common()),
        tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        len(chosen),
        time.monotonic() - started,
    )


def _broken(listing: Listing, broken: dict[int, str]) -> Iterator[Finding]:
    if broken:
        named = [f"{listing.name(i)} ({why})" for i, why in sorted(broken.items())]
        yield Finding(
            "broken",
            "error",
            len(named),
            f"{counted(len(named), 'images')} cannot be read: {listed(named)}",
            "replace them, or leave them out",
            tuple(named[:BROKEN_SHOWN]),
        )


def _of_images(listing: Listing, headers: Headers, looks: Looks) -> Iterator[Finding]:
    """Yield kinds of images that are treated in some way, or that the training refuses."""
    total, looked = len(listing.labels), len(looks.indices)
    kinds: tuple[tuple[str, Severity, Indices, int, str, str], ...] = (
        (
            "deep",
            "error",
            np.array(headers.deep, np.int64),
            total,
            f"of {DEEP}, which would be clipped",
            "convert them to 8 bits a channel, with the contrast that you want",
        ),
        (
            "one colour",
            "warning",
            looks.indices[looks.one_colour],
            looked,
            "of one colour all over",
            "remove them, unless that is what they shall show",
        ),
        (
            "turned",
            "info",
            np.flatnonzero(headers.turned),
            total,
            "turned or mirrored as their EXIF data say",
            "",
        ),
        (
            "transparent",
            "info",
            looks.indices[looks.transparent],
            looked,
            "with transparent pixels, laid on white",
            "",
        ),
        (
            "frames",
            "info",
            np.flatnonzero(headers.frames),
            total,
            "with several frames, of which the first is used",
            "",
        ),
    )
    for kind, severity, indices, of, text, fix in kinds:
        if count := len(indices):
            examples = tuple(listing.name(int(i)) for i in indices[:EXAMPLES])
            what = f"{count:,} of {counted(of, 'images')} {text}: {examples[0]}"
            yield Finding(kind, severity, count, what, fix, examples)
