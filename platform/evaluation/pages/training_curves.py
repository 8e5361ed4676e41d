"""Learning curves of a training: what it logged over the images it has seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .axes import Tick, up_and_ticks
from .formatting import Axis

TITLES = {"loss/total": "total", "validation/denoising": "validation"}
POINTS = 200
"""Of a line at most; neighbours are averaged where there are more."""
MOST_LINES = 6
"""In one plot; there are as many styles of lines."""

Series = Mapping[str, Sequence[tuple[float, float]]]
"""(images seen, value) of each metric, in order."""


@dataclass(frozen=True)
class TrainingLine:
    """One metric."""

    label: str
    style: int
    """0 to 5: colour and dashes."""
    path: str
    dots: str
    """Where a line has a single point."""
    last: str
    """Its last value, in digits."""


@dataclass(frozen=True)
class TrainingChart:
    """Metrics on one axis over the images seen."""

    title: str
    y: tuple[Tick, ...]
    x: tuple[Tick, ...]
    lines: tuple[TrainingLine, ...]


def training_charts(series: Series) -> tuple[TrainingChart, ...]:
    """Return plots of the losses, of the parts of the loss, of the validation loss and of the speed.

    Those without a value are left out.
    """
    parts = sorted(key for key in series if key.startswith("loss/") and key != "loss/total")
    plots = (
        ("Loss", ["loss/total"]),
        ("Parts of the loss", parts[:MOST_LINES]),
        ("Validation loss", ["validation/denoising"]),
        ("Images per second", ["images_per_second"]),
    )
    charts = []
    for title, keys in plots:
        known = {key: points for key in keys if (points := _finite(series.get(key, ())))}
        if known:
            charts.append(_chart(title, known))
    return tuple(charts)


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that are numbers, averaged where there are too many."""
    known = [(x, y) for x, y in points if math.isfinite(y)]
    size = -(-len(known) // POINTS)
    groups = (known[first : first + size] for first in range(0, len(known), max(1, size)))
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _to_the_end(images: float) -> Axis:
    """Return an axis that ends with the training, with labels at round numbers."""
    axis = Axis.over([0.0, images], about=4)
    return replace(axis, high=images, ticks=tuple(tick for tick in axis.ticks if tick <= images))


def _chart(title: str, known: Mapping[str, Sequence[tuple[float, float]]]) -> TrainingChart:
    x = _to_the_end(max(at for points in known.values() for at, _ in points))
    low, high = 0.0, max(y for points in known.values() for _, y in points)
    low = min([low, *(y for points in known.values() for _, y in points)])
    y = Axis.over([low, high])
    up, y_ticks = up_and_ticks(y)
    lines = []
    for style, (key, points) in enumerate(known.items()):
        at = [f"{x.position(seen):g} {up(value):g}" for seen, value in points]
        label = TITLES.get(key, key.partition("/")[2] or key)
        dots = f"M{at[0]}h0" if len(at) == 1 else ""
        last = f"{points[-1][1]:.4g}"
        lines.append(TrainingLine(label, style, "M" + "L".join(at), dots, last))
    return TrainingChart(title, y_ticks, up_and_ticks(x)[1], tuple(lines))
