"""The images of every class as stacked bars: real ones, generated ones that are kept, rejected ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from ...evaluation.pages.axes import (
    HOVERS,
    LEVEL,
    NAMED,
    Hover,
    Tick,
    group_spans,
    ranks,
    up_and_ticks,
)
from ...evaluation.pages.formatting import Axis
from .counts import Count

GAP = 0.12
"""On either side of a bar, of its width; none from this many classes on:"""
DENSE = 150


@dataclass(frozen=True)
class Band:
    """The classes of one group."""

    name: str
    left: float
    """Per cent of the axis."""
    width: float
    before: int
    """Real training images."""
    after: int
    """Real and kept ones."""


@dataclass(frozen=True)
class CountsChart:
    """The chart, from head to tail."""

    classes: int
    y: tuple[Tick, ...]
    bands: tuple[Band, ...]
    real: str
    """SVG paths."""
    kept: str
    rejected: str
    level: float
    """Per cent from the top of the number that classes are filled up to."""
    hovers: tuple[Hover, ...]
    names: tuple[str, ...]
    """At the axis, empty where there are too many."""
    x: tuple[Tick, ...]
    """Ranks, where there are no names or the window may be too narrow for them."""


def counts_chart(counts: Sequence[Count], fill_to: int) -> CountsChart:
    """Return the chart.

    Args:
        counts: of each class, from the most to the fewest training images.
        fill_to: N_t.
    """
    n = len(counts)
    axis = Axis.over([0.0, fill_to, *(c.real + c.generated for c in counts)])
    up, y = up_and_ticks(axis)
    gap = GAP if n <= DENSE else 0.0

    def bars(ends: Sequence[tuple[int, int]]) -> str:
        return "".join(
            f"M{i + gap:g} {up(low):g}V{up(high):g}h{1 - 2 * gap:g}V{up(low):g}z"
            for i, (low, high) in enumerate(ends)
            if high > low
        )

    strip = ceil(n / HOVERS)
    return CountsChart(
        classes=n,
        y=y,
        bands=tuple(
            Band(
                group,
                100 * start,
                100 * (stop - start),
                sum(c.real for c in counts if c.group == group),
                sum(c.total for c in counts if c.group == group),
            )
            for group, start, stop in group_spans([c.group for c in counts])
        ),
        real=bars([(0, c.real) for c in counts]),
        kept=bars([(c.real, c.total) for c in counts]),
        rejected=bars([(c.total, c.real + c.generated) for c in counts]),
        level=up(fill_to),
        hovers=tuple(
            Hover(i, min(n, i + strip) - i, _about(counts[i : i + strip], i))
            for i in range(0, n, strip)
        ),
        names=tuple(c.name for c in counts) if n <= NAMED else (),
        x=ranks(n) if n > LEVEL else (),
    )


def _about(counts: Sequence[Count], first: int) -> str:
    images = ", ".join(
        f"{sum(numbers):,} {kind}"
        for kind, numbers in (
            ("real", [c.real for c in counts]),
            ("generated and kept", [c.kept for c in counts]),
            ("rejected", [c.rejected for c in counts]),
        )
    )
    if len(counts) == 1:
        return f"{counts[0].name} ({counts[0].group}): {images}"
    where = f"Classes {first + 1} to {first + len(counts)}"
    return f"{where}, {counts[0].name} to {counts[-1].name}: {images}"
