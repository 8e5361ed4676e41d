"""The result of `whipray diffult` as one page: what generated images give beyond repetition, and all behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...evaluation.pages.axes import Tick, ticks
from ...evaluation.pages.formatting import Axis, digits, ends
from ...evaluation.pages.page import render
from ...foundation.durations import minutes
from .content import (
    ArmResult,
    DiffultPage,
    Figure,
    PairedDifference,
    Published,
    Step,
)
from .page_warnings import page_warnings

DECIMALS = 1
"""Of percentages and of points."""
MARGIN = 0.05
"""Room at both ends of a column's axis, for the rings there."""
ARMS = {
    "real": "the real images alone",
    "repeated": "real images repeated",
    "augmented": "real images repeated, each copy augmented",
    "unfiltered": "all generated images",
    "random": "a random part of the generated images, as many as the filter keeps",
    "filtered": "the generated images that the filter keeps",
    "generated": "all generated images",
}
"""What each arm is trained on; besides the real images, but for the first."""
VERDICTS = {"better": "a gain", "worse": "a loss", "noise": "within noise", "unknown": "one seed"}


@dataclass(frozen=True)
class Mark:
    """A figure on an axis, in per cent of it; texts in percentages or points."""

    value: str
    interval: str
    """Empty where there is none."""
    low: float
    width: float
    at: float
    zero: float | None
    seeds: tuple[tuple[float, str], ...]
    """Where each seed's value is, and its text."""
    verdict: str = "unknown"
    """A key of `VERDICTS`."""


@dataclass(frozen=True)
class DifferenceChart:
    """The difference between two arms, by group."""

    difference: PairedDifference
    rows: tuple[tuple[str, Mark, float | None], ...]
    """Group, difference and adjusted p value."""
    axis: tuple[Tick, ...]


def diffult_page(content: DiffultPage) -> str:
    """Return the result as one self-contained HTML page; sections without content are left out."""
    charts = _difference_charts(content)
    headline = next((c for c in charts if c.difference.less == "repeated"), None)
    return render(
        "diffult.html.jinja",
        page=content,
        warnings=page_warnings(content),
        headline=headline,
        others=[chart for chart in charts if chart is not headline],
        verdicts=VERDICTS,
        arms=_arm_rows(content),
        arm_texts=ARMS,
        published=[(row, _published(row, content)) for row in content.published],
        seed_rows=_seed_rows(content),
        steps=[(step, _duration(step)) for step in content.steps],
        settings=[(name, value) for name, value in content.settings.items() if value is not None],
    )


def _difference_charts(content: DiffultPage) -> list[DifferenceChart]:
    """Return the differences in points: on one axis those to controls, which that to `real` would dwarf."""
    controls = [d for d in content.differences if d.less != "real"]
    axes = {d.less: _axis_of(controls if d in controls else [d]) for d in content.differences}
    return [
        DifferenceChart(
            difference,
            tuple(
                (
                    group.name,
                    _mark(difference.accuracy[group.name], axes[difference.less], sign=True),
                    difference.p_holm.get(group.name),
                )
                for group in content.groups
                if group.name in difference.accuracy
            ),
            ticks(axes[difference.less]),
        )
        for difference in content.differences
    ]


def _axis_of(differences: Sequence[PairedDifference]) -> Axis:
    figures = [figure for difference in differences for figure in difference.accuracy.values()]
    return Axis.over([0.0, *(100 * x for figure in figures for x in _reach(figure))], about=5)


def _arm_rows(content: DiffultPage) -> list[tuple[ArmResult, list[Mark | None]]]:
    """Return each arm's accuracy by group; a column has an axis of its own, as far as its values reach."""
    columns = []
    for group in content.groups:
        figures = [arm.accuracy.get(group.name) for arm in content.arms]
        reach = [100 * x for figure in figures if figure for x in _reach(figure)] or [0.0]
        room = MARGIN * (max(reach) - min(reach) or 1.0)
        axis = Axis(min(reach) - room, max(reach) + room)
        columns.append([_mark(figure, axis) if figure else None for figure in figures])
    return [(arm, [column[i] for column in columns]) for i, arm in enumerate(content.arms)]


def _mark(figure: Figure, axis: Axis, sign: bool = False) -> Mark:
    value = 100 * figure.value
    low, high = (value if x is None else 100 * x for x in (figure.low, figure.high))
    left = axis.position(low)
    return Mark(
        value=digits(value, DECIMALS, sign),
        interval="" if figure.low is None else ends(low, high, DECIMALS, sign),
        low=left,
        width=round(axis.position(high) - left, 2),
        at=axis.position(value),
        zero=axis.position(0.0) if sign else None,
        seeds=tuple(
            (axis.position(100 * x), f"seed {i}: {digits(100 * x, DECIMALS, sign)}")
            for i, x in enumerate(figure.by_seed)
        ),
        verdict=verdict(figure),
    )


def verdict(figure: Figure) -> str:
    """Return whether a difference is `better`, `worse`, `noise` (its interval holds 0) or `unknown`."""
    if figure.low is None or figure.high is None:
        return "unknown"
    if figure.low <= 0 <= figure.high:
        return "noise"
    return "better" if figure.value > 0 else "worse"


def _reach(figure: Figure) -> list[float]:
    return [x for x in (figure.value, figure.low, figure.high, *figure.by_seed) if x is not None]


def _published(row: Published, content: DiffultPage) -> list[str | None]:
    return [
        digits(100 * row.accuracy[group.name], DECIMALS) if group.name in row.accuracy else None
        for group in content.groups
    ]


def _seed_rows(content: DiffultPage) -> list[tuple[str, str, Sequence[str]]]:
    """Return arm, group and the accuracy of each seed."""
    return [
        (arm.name, group.name, [digits(100 * x, 2) for x in arm.accuracy[group.name].by_seed])
        for group in content.groups
        for arm in content.arms
        if group.name in arm.accuracy
    ]


def _duration(step: Step) -> str:
    return "–" if step.seconds is None else minutes(step.seconds)
