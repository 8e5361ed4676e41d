"""Coordinates of the marks of a chart; `templates/charts.html.jinja` renders them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

from ..bootstrap import Estimate
from ..goal import Goal
from ..metrics import OUTPUTS
from ..report import ClassRow
from .axes import HOVERS, LEVEL, NAMED, Hover, Tick, from_top, group_spans, ranks, ticks
from .content import CurvePoint
from .formatting import Axis, digits, ends
from .settings import Settings

WHISKERS = 150
"""Up to this many classes have whiskers; with more there is a running median instead."""


@dataclass(frozen=True)
class Band:
    """The classes of one group in the class chart."""

    name: str
    left: float
    width: float
    """Of its heading, per cent of the axis."""
    bars: str
    """SVG path."""
    middle: str
    """Their median, in digits."""


@dataclass(frozen=True)
class ClassChart:
    """One value of every class above its training images, from head to tail."""

    title: str
    better: str
    classes: int
    undefined: int
    """Classes with too few images for it."""
    y: tuple[Tick, ...]
    zero: float
    bands: tuple[Band, ...]
    whiskers: str
    running: str
    """Path of the running median, empty where there are whiskers."""
    neighbours: int
    """Classes under each step of it."""
    hovers: tuple[Hover, ...]
    counts: str
    """Path of the area of training images."""
    counts_y: tuple[Tick, ...]
    head: int
    tail: int
    """Training images of the first class and of the last."""
    names: tuple[str, ...]
    """At the axis, empty where there are too many."""
    x: tuple[Tick, ...]
    """Ranks, where there are no names or the window may be too narrow for them."""


def class_chart(rows: Sequence[ClassRow]) -> ClassChart | None:
    """Return KID of every class, or the first value that any class has; None without one.

    Args:
        rows: from the most to the fewest training images.
    """
    name = next((n for n in ("kid", *OUTPUTS) if any(n in r.values for r in rows)), None)
    if name is None:
        return None
    output, n = OUTPUTS[name], len(rows)
    estimates = [row.values.get(name) for row in rows]
    known = [e for e in estimates if e]
    whiskers = n <= WHISKERS
    reach = [end for e in known for end in ((e.low, e.high) if whiskers else (e.value,))]
    axis = Axis.over([0.0, *reach, *(e.value for e in known)])
    counts = Axis.over([0.0, max(row.train_count for row in rows)], about=2)
    neighbours = 1 if whiskers else ceil(n / 50)
    strip = ceil(n / HOVERS)
    return ClassChart(
        title=output.title,
        better=output.better,
        classes=n,
        undefined=estimates.count(None),
        y=ticks(axis),
        zero=from_top(axis, 0.0),
        bands=_bands(rows, estimates, axis, output.decimals),
        whiskers=_whiskers(estimates, axis) if whiskers else "",
        running="" if whiskers else _running_median(estimates, axis, neighbours),
        neighbours=neighbours,
        hovers=tuple(
            Hover(i, min(n, i + strip) - i, _about(rows[i : i + strip], i, name))
            for i in range(0, n, strip)
        ),
        counts=_area([row.train_count for row in rows], counts),
        counts_y=ticks(counts),
        head=rows[0].train_count,
        tail=rows[-1].train_count,
        names=tuple(row.name for row in rows) if n <= NAMED else (),
        x=ranks(n) if n > LEVEL else (),
    )


def _bands(
    rows: Sequence[ClassRow], estimates: Sequence[Estimate | None], axis: Axis, decimals: int
) -> tuple[Band, ...]:
    """Return each group's bars and median."""
    gap = 0.12 if len(rows) <= WHISKERS else 0.0
    zero, width = from_top(axis, 0.0), f"h{1 - 2 * gap:g}"
    bands = []
    for group, start, stop in group_spans([row.group for row in rows]):
        of_group = [
            (i, e)
            for i, (row, e) in enumerate(zip(rows, estimates, strict=True))
            if row.group == group
        ]
        bars = "".join(
            f"M{i + gap:g} {zero:g}V{from_top(axis, e.value):g}{width}V{zero:g}z"
            for i, e in of_group
            if e
        )
        middle = _median([e for _, e in of_group])
        text = "undefined" if middle is None else digits(middle, decimals)
        bands.append(Band(group, 100 * start, 100 * (stop - start), bars, text))
    return tuple(bands)


def _whiskers(estimates: Sequence[Estimate | None], axis: Axis) -> str:
    """Return the path of the classes' intervals."""
    return "".join(
        f"M{i + 0.5} {from_top(axis, e.low):g}V{from_top(axis, e.high):g}"
        for i, e in enumerate(estimates)
        if e
    )


def _running_median(estimates: Sequence[Estimate | None], axis: Axis, neighbours: int) -> str:
    """Return the path of the medians of so many neighbouring classes each."""
    n = len(estimates)
    return "".join(
        f"{'L' if i else 'M'}{i} {from_top(axis, middle):g}H{min(n, i + neighbours)}"
        for i in range(0, n, neighbours)
        if (middle := _median(estimates[i : i + neighbours])) is not None
    )


def _area(counts: Sequence[int], axis: Axis) -> str:
    """Return the path of the area below the classes' numbers of training images."""
    steps = "".join(f"V{from_top(axis, count):g}H{i + 1}" for i, count in enumerate(counts))
    return f"M0 100{steps}V100z"


@dataclass(frozen=True)
class Line:
    """Settings that differ on the axis alone."""

    label: str
    style: int
    """0 to 5: colour and dashes."""
    path: str
    """Empty where no curve can go through the points."""
    band: str
    dots: str


@dataclass(frozen=True)
class CurveChart:
    """One value over omega or another setting, a line for each combination of the rest."""

    title: str
    better: str
    y: tuple[Tick, ...]
    x: tuple[Tick, ...]
    lines: tuple[Line, ...]
    hovers: tuple[tuple[float, float, str], ...]
    """(per cent from the left, from the bottom, text) of every point."""
    best: tuple[float, float]
    """Where the best point is, likewise."""
    best_text: str
    chosen: float | None
    """Per cent from the left of the chosen point."""
    x_title: str


def curve_chart(points: Sequence[CurvePoint], key: str) -> CurveChart | None:
    """Return the curve of `fid/overall`, `kid/few`, ...; None where fewer than two points have it."""
    points = [p for p in points if key in p.values]
    if len(points) < 2:
        return None
    name, _, group = key.partition("/")
    output = OUTPUTS[name]
    settings = Settings(points)
    x = Axis.over(map(settings.x, points), about=5)
    reach = [end for p in points for e in [p.values[key]] for end in (e.low, e.value, e.high)]
    y = Axis.over(reach)
    best = best_point(points, key)
    top = best.values[key]
    others = [p for p in points if p is not best]
    alike = sum(p.values[key].low <= top.value <= p.values[key].high for p in others)
    text = f"Best: {settings.label(best)}, {_words(top, output.decimals)}"
    if alike:
        text += f"; {alike} of {len(others)} others have that value inside their intervals"

    def path(line: Sequence[CurvePoint], end: Callable[[Estimate], float]) -> str:
        at = (f"{x.position(settings.x(p)):g} {from_top(y, end(p.values[key])):g}" for p in line)
        return "L".join(at)

    lines = []
    for style, (label, line) in enumerate(settings.lines()):
        high, low = path(line, lambda e: e.high), path(line[::-1], lambda e: e.low)
        middle = path(line, lambda e: e.value)
        dots = "".join(f"M{at}h0" for at in middle.split("L"))
        curve = (f"M{middle}", f"M{high}L{low}z") if settings.is_curve(line) else ("", "")
        lines.append(Line(label, style % 6, *curve, dots))
    chosen = next((p for p in points if p.chosen), None)
    return CurveChart(
        title=f"{output.title}, {group}",
        better=output.better,
        y=ticks(y),
        x=ticks(x),
        lines=tuple(lines),
        hovers=tuple(
            (
                x.position(settings.x(p)),
                y.position(p.values[key].value),
                f"{settings.label(p)}: {_words(p.values[key], output.decimals)}",
            )
            for p in points
        ),
        best=(x.position(settings.x(best)), y.position(top.value)),
        best_text=text,
        chosen=x.position(settings.x(chosen)) if chosen else None,
        x_title=settings.x_title,
    )


def best_point(points: Sequence[CurvePoint], key: str) -> CurvePoint:
    """Return the point with the best `fid/overall`, `kid/few`, ...; the earliest of equal ones."""
    return Goal.parse(key).best(
        (p for p in points if key in p.values), lambda p: p.values[key].value
    )


def _median(estimates: Sequence[Estimate | None]) -> float | None:
    values = [e.value for e in estimates if e]
    return median(values) if values else None


def _about(rows: Sequence[ClassRow], first: int, name: str) -> str:
    output = OUTPUTS[name]
    if len(rows) == 1:
        (row,) = rows
        e = row.values.get(name)
        value = _words(e, output.decimals) if e else "undefined, too few images"
        return (
            f"{row.name} ({row.group}): {output.title} {value}; {row.train_count:,} training images"
        )
    values = [row.values[name].value for row in rows if name in row.values]
    counts = f"{rows[0].train_count:,} to {rows[-1].train_count:,} training images"
    where = f"Classes {first + 1} to {first + len(rows)}, {rows[0].name} to {rows[-1].name}"
    if not values:
        return f"{where}: {output.title} undefined, too few images; {counts}"
    middle = digits(median(values), output.decimals)
    span = ends(min(values), max(values), output.decimals)
    return f"{where}: {output.title} median {middle}, {span}; {counts}"


def _words(e: Estimate, decimals: int) -> str:
    return f"{digits(e.value, decimals)} ({ends(e.low, e.high, decimals)})"
