"""The parts of charts that all of them have: axes, ticks, groups of classes, and strips under the pointer.

A plot is an SVG stretched over its panel, so x and y have their own units in it (`viewBox`), lines
keep their thickness, and text is HTML beside it, legible at every width. A plotting library such as
plotly would add 3 MB of script to every page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from .formatting import MINUS, Axis, digits

NAMED = 40
"""Up to this many classes have their names at the axis; with more they are numbered."""
LEVEL = 12
"""Up to this many class names are horizontal; with more they are rotated."""
HOVERS = 125
"""At most this many strips show their values under the pointer: narrower ones cannot be hit."""


@dataclass(frozen=True)
class Tick:
    """A label at an axis."""

    at: float
    """Per cent of the axis."""
    text: str


@dataclass(frozen=True)
class Hover:
    """A strip of a plot that shows its values under the pointer; units of the plot."""

    left: float
    width: float
    text: str


def from_top(axis: Axis, x: float) -> float:
    """Return per cent from the top: SVG's y grows downwards."""
    return round(100 - axis.position(x), 2)


def up_and_ticks(axis: Axis) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    """Return what turns a value into per cent from the top, and the labels of the axis."""
    return partial(from_top, axis), ticks(axis)


def ticks(axis: Axis) -> tuple[Tick, ...]:
    """Return the labels of an axis."""
    return tuple(
        Tick(
            axis.position(x),
            f"{x:,.0f}".replace("-", MINUS) if not axis.decimals else digits(x, axis.decimals),
        )
        for x in axis.ticks
    )


def ranks(n: int) -> tuple[Tick, ...]:
    """Return the first class, the last and round ones between, under the middle of their bars."""
    axis = Axis.over([0, n], about=5)
    between = [int(x) for x in axis.ticks if x > 1 and x < n - 0.4 * axis.ticks[1]]
    return tuple(Tick(100 * (rank - 0.5) / n, str(rank)) for rank in [1, *between, n])


def group_spans(groups: Sequence[str]) -> Iterator[tuple[str, float, float]]:
    """Yield each group's share of the axis, from and to; equal shares where groups are scattered."""
    runs = [(group, len(list(members))) for group, members in groupby(groups)]
    names = list(dict.fromkeys(groups))
    if len(runs) > len(names):  # grouped otherwise than by training images
        runs = [(group, 1) for group in names]
    total, start = sum(length for _, length in runs), 0
    for group, length in runs:
        yield group, start / total, (start + length) / total
        start += length
