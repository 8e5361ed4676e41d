"""The datasheet of a balanced data set as a page: counts, examples, distances, near copies, and its use.

The questions are those of Gebru et al., "Datasheets for Datasets" (Communications of the ACM 2021), as far
as they can be answered from what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...evaluation.arrays import Pixels
from ...evaluation.extractors.base import Value
from ...evaluation.pages.page import render
from ...evaluation.pages.tiles import Strip, bounded, strip
from .content import ClassExamples, Datasheet
from .counts import Count, count_images
from .counts_chart import counts_chart
from .datasheet_warnings import datasheet_warnings
from .histograms import SCORES, criteria_in_words, histograms, short
from .usage import readings

OPEN = 40
"""Up to this many classes the table is open; with more it is folded."""
SYMBOLS = {name: score.symbol for name, score in SCORES.items()} | {"copy_ratio": "copy ratio"}
"""Criteria as the page's captions name them."""
KINDS = {1: "grey", 3: "colour"}


def datasheet_page(sheet: Datasheet) -> str:
    """Return the datasheet as one self-contained HTML page; sections without content are left out."""
    counts = count_images(sheet.classes, sheet.generated)
    channels, height, width = sheet.image_shape
    overall = counts.overall
    totals = [c.total for c in counts.classes]
    by_position = {c.position: c for c in counts.classes}
    return render(
        "datasheet.html.jinja",
        sheet=sheet,
        counts=counts,
        overall=overall,
        imbalance=[_imbalance([c.real for c in counts.classes]), _imbalance(totals)],
        warnings=datasheet_warnings(sheet, counts),
        chart=counts_chart(counts.classes, sheet.fill_to),
        open=len(counts.classes) <= OPEN,
        criteria=criteria_in_words(sheet.filter),
        symbols=SYMBOLS,
        examples=[_examples_of(each, by_position[each.position]) for each in sheet.examples],
        histograms=histograms(sheet),
        pairs=[
            (copy, _tiles(np.stack([copy.pair.generated, copy.pair.nearest])))
            for copy in sheet.near_copies
        ],
        readings=readings(sheet),
        kind=f"{KINDS.get(channels, f'{channels}-channel')} images of {height} x {width} pixels",
        facts=_facts(sheet),
    )


@dataclass(frozen=True)
class _Examples:
    """Images of one class, ready to be rendered."""

    count: Count
    real: Strip | None
    kept: Strip | None
    rejected: tuple[tuple[Strip, str, str], ...]
    """Each with why, in short and as the manifest has it."""


def _examples_of(images: ClassExamples, count: Count) -> _Examples:
    rejected = [
        (_tiles(each.image[None]), _short(each.reason), each.reason) for each in images.rejected
    ]
    return _Examples(
        count,
        _tiles(images.real) if len(images.real) else None,
        _tiles(images.kept) if len(images.kept) else None,
        tuple(rejected),
    )


def _short(reason: str) -> str:
    """Return a reason without the thresholds, which are the same for all: `d3 3.1e-9`."""
    parts = (part.split() for part in reason.split("; "))
    return ", ".join(
        f"{SYMBOLS.get(name, name)} {short(float(value))}" for name, value, *_ in parts
    )


def _tiles(images: Pixels) -> Strip:
    return strip(bounded(images))


def _imbalance(counts: Sequence[int]) -> float | None:
    """Return the largest class's images over the smallest's; None where a class has none."""
    return max(counts) / min(counts) if counts and min(counts) else None


def _facts(sheet: Datasheet) -> list[tuple[str, Value]]:
    """Return what decides the generated images, and where they are from."""
    return [
        ("model", sheet.model),
        ("weights_hash", sheet.weights_hash),
        ("seed", sheet.seed),
        ("filled_up_to", sheet.fill_to),
        *((f"filter by {name}", words) for name, words in criteria_in_words(sheet.filter).items()),
        *sheet.sampling.facts().items(),
        *sheet.provenance.items(),
    ]
