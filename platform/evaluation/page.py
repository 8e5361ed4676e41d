"""A report as one static HTML page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from .bootstrap import Estimate

if TYPE_CHECKING:
    from .report import Report

TEMPLATE = Path(__file__).with_name("report.html.jinja")

COLUMNS = {
    "kid": ("KID", "lower is better", 4),
    "fid": ("FID", "lower is better", 2),
    "recall": ("Recall", "higher is better", 3),
    "precision": ("Precision", "higher is better", 3),
    "agreement": ("Label agreement", "higher is better", 3),
}
"""Metric -> title, direction, decimals."""


def render_page(report: Report, grid: Image.Image | None) -> str:
    """The page's text; pictures, style and numbers are all in it."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    per_class = report.per_class.to_pylist()
    kid = [_estimate(row, "kid") for row in per_class]
    agreement = [_estimate(row, "agreement") for row in per_class]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        provenance=report.provenance,
        columns=COLUMNS,
        rows=report.rows,
        cells={
            metric: _cells([getattr(row, metric) for row in report.rows], metric)
            for metric in COLUMNS
        },
        classes=list(
            zip(per_class, _cells(kid, "kid"), _cells(agreement, "agreement"), strict=True)
        ),
        largest=max(row["train_count"] for row in per_class) or 1,
        grid=None if grid is None else _png(grid),
    )


def _estimate(row: dict[str, Any], metric: str) -> Estimate | None:
    value, low, high = (row[f"{metric}{end}"] for end in ("", "_low", "_high"))
    return None if value is None else Estimate(value, low, high)


def _cells(found: Iterable[Estimate | None], metric: str) -> list[dict[str, Any] | None]:
    """Text of each estimate and, in per cent of one axis for the column, where it is drawn."""
    found = list(found)
    known = [e for e in found if e]
    decimals = COLUMNS[metric][2]
    left, right = 0.0, 1.0
    if metric in ("kid", "fid"):
        left = min([0.0, *(min(e.low, e.value) for e in known)])
        right = max([left + 1e-12, *(max(e.high, e.value) for e in known)])

    def place(x: float) -> float:
        return round(100 * (x - left) / (right - left), 2)

    def cell(e: Estimate) -> dict[str, Any]:
        return {
            "value": f"{e.value:.{decimals}f}",
            "interval": f"{e.low:.{decimals}f} to {e.high:.{decimals}f}",
            "zero": place(0.0),
            "at": place(e.value),
            "low": place(e.low),
            "width": round(place(e.high) - place(e.low), 2),
        }

    return [cell(e) if e else None for e in found]


def _png(grid: Image.Image) -> str:
    stream = io.BytesIO()
    grid.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()
