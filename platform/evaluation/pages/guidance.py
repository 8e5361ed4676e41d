"""A guidance search as a page of its own: quality over omega, by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..metrics import OUTPUTS
from .content import BestPoint, CurvePoint
from .curves import curves
from .formatting import digits, ends
from .page import render
from .settings import Settings

KEYS = tuple(
    f"{output}/{group}" for group in ("overall", "few") for output in ("fid", "kid", "recall")
)


def render_guidance(
    run_name: str,
    points: Sequence[CurvePoint],
    best: Mapping[str, BestPoint],
    warnings: Sequence[str] = (),
) -> str:
    """Return the search as one self-contained HTML page.

    Args:
        run_name: of the checkpoint's run.
        points: every setting that was tried.
        best: by group, the setting that is best for it.
        warnings: what to know before believing the values.
    """
    settings = Settings(points)
    return render(
        "guidance.html.jinja",
        run_name=run_name,
        points=points,
        warnings=warnings,
        curves=curves(points, KEYS),
        held_out=any(b.held_out is not b.point for b in best.values()),
        best=[(group, settings.label(b.point), _of(group, b)) for group, b in best.items()],
    )


def _of(group: str, best: BestPoint) -> list[tuple[str, str, str, str]]:
    """Return (title, value, interval, value where it was chosen) of the point's values for this group."""
    rows = []
    for name, output in OUTPUTS.items():
        key, places = f"{name}/{group}", output.decimals
        if e := best.held_out.values.get(key):
            chosen = best.point.values.get(key)
            text = digits(chosen.value, places) if chosen else ""
            rows.append((output.title, digits(e.value, places), ends(e.low, e.high, places), text))
    return rows
