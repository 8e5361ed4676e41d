"""The distances and probabilities of all generated images, by group, with the filter's thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ...config.balancing import FilterConfig
from ...evaluation.arrays import Floats, Ints
from ...evaluation.pages.axes import Tick, from_top, up_and_ticks
from ...evaluation.pages.formatting import Axis, digits
from .content import Datasheet
from .counts import GROUPS

BINS = 48
FLOOR = -2
"""Of the logarithmic axis of shares, per cent, at least: 0.01 %."""
LEAST = 1e-20
"""Probabilities below are shown as this one: what is left of a softmax there is rounding."""


@dataclass(frozen=True)
class Score:
    """One of the three."""

    symbol: str
    title: str
    decimals: int
    at_most: bool
    """Whether an image is kept at or below the threshold, not at or above it."""


SCORES = {
    "pixel_distance": Score("d1", "distance of pixels", 0, at_most=True),
    "feature_distance": Score("d2", "distance in f_0's features", 2, at_most=True),
    "probability": Score("d3", "probability by f_0", 0, at_most=False),
}


@dataclass(frozen=True)
class HistogramLine:
    """One group."""

    group: str
    style: int
    path: str
    middle: str
    """Median, in digits."""


@dataclass(frozen=True)
class Histogram:
    """One score of all generated images."""

    score: Score
    x_title: str
    logarithmic: bool
    """Whether shares are on a logarithmic axis."""
    y: tuple[Tick, ...]
    x: tuple[Tick, ...]
    lines: tuple[HistogramLine, ...]
    rejecting: tuple[float, float] | None
    """Left end and width of the part that the filter rejects, per cent; None without a threshold."""
    threshold: float
    """Per cent from the left."""
    caption: str


def histograms(sheet: Datasheet) -> tuple[Histogram, ...]:
    """Return a histogram of each score; none where nothing was generated."""
    if not len(sheet.generated.labels):
        return ()
    group_of = np.array([GROUPS.index(c.group) for c in sheet.classes])[sheet.generated.labels]
    columns = {name: np.asarray(getattr(sheet.generated, name), np.float64) for name in SCORES}
    return tuple(_histogram(name, of, group_of, sheet.filter) for name, of in columns.items())


def _histogram(name: str, values: Floats, groups: Ints, config: FilterConfig) -> Histogram:
    score, threshold = SCORES[name], getattr(config, name)
    logarithmic = not score.at_most

    def shown(x: Floats) -> Floats:
        return np.log10(np.maximum(x, LEAST)) if logarithmic else x

    at = shown(values)
    line = None if threshold is None else float(shown(np.array([threshold]))[0])
    x = Axis.over([at.min(), at.max(), *([] if line is None else [line])], about=4)
    edges = np.linspace(x.low, x.high, BINS + 1)
    shares: dict[int, Floats] = {
        g: np.histogram(at[groups == g], edges)[0] / np.count_nonzero(groups == g)
        for g in np.unique(groups).tolist()
    }
    up, y_ticks = _shares_axis(shares.values(), len(values), logarithmic)
    step = 100 / BINS
    lines = tuple(
        HistogramLine(
            GROUPS[g],
            g,
            "M0 100"
            + "".join(f"V{up(100 * share):g}H{(i + 1) * step:.4g}" for i, share in enumerate(of))
            + "V100",
            _number(float(np.median(values[groups == g])), score),
        )
        for g, of in shares.items()
    )
    rejecting, where, caption = None, 0.0, "No threshold: nothing is rejected by it."
    if line is not None:
        where = x.position(line)
        rejecting = (where, 100 - where) if score.at_most else (0.0, where)
        passed = values <= threshold if score.at_most else values >= threshold
        share = 100 * float(np.mean(~passed))
        side = "at or below" if score.at_most else "at or above"
        caption = f"Kept {side} {_number(threshold, score)}: it rejects {share:.1f} %."
    if logarithmic and (values < LEAST).any():
        caption += f" What is below {short(LEAST)} is shown there."
    return Histogram(
        score,
        f"log10 of {score.symbol}" if logarithmic else score.symbol,
        logarithmic,
        y_ticks,
        up_and_ticks(x)[1],
        lines,
        rejecting,
        where,
        caption,
    )


def _shares_axis(
    shares: Iterable[Floats], images: int, logarithmic: bool
) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    """Return per cent from the top of a share in per cent, and the labels.

    Most images may have a probability near 1: their bin would leave the others no height on a linear axis.
    """
    most = 100 * max(float(of.max()) for of in shares)
    if not logarithmic:
        return up_and_ticks(Axis.over([0.0, most], about=3))
    floor = max(FLOOR, math.floor(math.log10(100 / images)))
    top = max(floor + 1, math.ceil(math.log10(most)))
    axis = Axis(floor, top)

    def up(share: float) -> float:
        return from_top(axis, math.log10(max(share, 10.0**floor)))

    return up, tuple(Tick(axis.position(n), f"{10.0**n:g}") for n in range(floor, top + 1))


def short(x: float) -> str:
    """Return few digits: two of what is below 1, without the leading zero of an exponent."""
    return f"{x:.4g}" if x >= 1 else f"{x:.2g}".replace("e-0", "e-")


def _number(x: float, score: Score) -> str:
    if not score.at_most:
        return short(x)
    return f"{x:,.0f}" if not score.decimals else digits(x, score.decimals)


def criteria_in_words(config: FilterConfig) -> Mapping[str, str]:
    """Return each criterion that is set, and what it asks of an image."""
    words = {}
    for name, score in SCORES.items():
        if (threshold := getattr(config, name)) is not None:
            side = "at most" if score.at_most else "at least"
            words[score.symbol] = f"the {score.title}, is {side} {_number(threshold, score)}"
    if not config.near_copies:
        words["copy ratio"] = "it is no near copy of a training image"
    return words
