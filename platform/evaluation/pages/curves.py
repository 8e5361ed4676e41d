"""A guidance search as plots and a table, the same on the report and on its own page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..metrics import OUTPUTS
from .charts import CurveChart, best_point, curve_chart
from .content import CurvePoint
from .formatting import Cell, cells
from .settings import Settings


@dataclass(frozen=True)
class Curves:
    """A search, ready to be rendered."""

    charts: tuple[CurveChart, ...]
    labels: tuple[str, ...]
    """Of the lines, in their styles' order."""
    chosen: bool
    """Whether a point is the chosen one."""
    x_title: str
    """Of the axis."""
    settings: tuple[str, ...]
    """Titles of the table's columns of settings."""
    columns: tuple[tuple[str, str], ...]
    """Title and better direction of each column of the table."""
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Row:
    """One point of the table."""

    settings: tuple[str | None, ...]
    chosen: bool
    values: tuple[tuple[Cell | None, bool], ...]
    """Each with whether it is the best of its column."""


def curves(points: Sequence[CurvePoint], keys: Sequence[str]) -> Curves | None:
    """Return the curves of those `keys` that two points have; None where no key has a curve.

    Args:
        points: in the order in which their lines are listed.
        keys: `fid/overall`, `kid/few`, ...
    """
    charts = {key: chart for key in keys if (chart := curve_chart(points, key))}
    if not charts:
        return None
    settings = Settings(points)
    lines = settings.lines()
    ordered = list({id(point): point for _, line in lines for point in line}.values())
    columns = []
    for key in charts:
        column = cells(OUTPUTS[key.partition("/")[0]], [p.values.get(key) for p in ordered])
        best = best_point(ordered, key)
        columns.append([(c, p is best) for c, p in zip(column, ordered, strict=True)])
    return Curves(
        charts=tuple(charts.values()),
        labels=tuple(label for label, _ in lines),
        chosen=any(point.chosen for point in points),
        x_title=settings.x_title,
        settings=tuple(settings.columns()),
        columns=tuple((chart.title, chart.better) for chart in charts.values()),
        rows=tuple(
            Row(tuple(settings.cells(point)), point.chosen, values)
            for point, values in zip(ordered, zip(*columns, strict=True), strict=True)
        ),
    )
