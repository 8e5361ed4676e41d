"""A guidance search as a page of its own: quality over omega, by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..metrics import OUTPUTS
from .charts import setting
from .content import CurvePoint
from .curves import curves
from .formatting import digits, ends
from .page import render

KEYS = tuple(
    f"{output}/{group}" for group in ("overall", "few") for output in ("fid", "kid", "recall")
)


def render_guidance(
    run_name: str,
    points: Sequence[CurvePoint],
    best: Mapping[str, CurvePoint],
    warnings: Sequence[str] = (),
) -> str:
    """Return the search as one self-contained HTML page.

    Args:
        run_name: of the checkpoint's run.
        points: every setting that was tried.
        best: by group, the setting that is best for it.
        warnings: what to know before believing the values.
    """
    return render(
        "guidance.html.jinja",
        run_name=run_name,
        points=points,
        warnings=warnings,
        curves=curves(points, KEYS),
        chosen=next((setting(point) for point in points if point.chosen), None),
        best=[(group, setting(point), _of(group, point)) for group, point in best.items()],
    )


def _of(group: str, point: CurvePoint) -> list[tuple[str, str, str]]:
    """Return (title, value, interval) of the point's values for this group."""
    values = ((output, point.values.get(f"{name}/{group}")) for name, output in OUTPUTS.items())
    return [
        (n.title, digits(e.value, n.decimals), ends(e.low, e.high, n.decimals))
        for n, e in values
        if e
    ]
