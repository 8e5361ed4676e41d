"""What `whipray train` shows at its end: one screen of 24 lines by 80 characters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from ...trainers.data.report import counted
from ..storage.layout import EVALUATION_PAGE, SAMPLE_GRID
from .consoles import next_commands, print_warnings, stderr_console, stdout_console
from .tables import metrics_table

if TYPE_CHECKING:
    from ..runs.run import RunResult
    from ..runs.single_run import SingleRun

METRICS = ("kid", "fid", "precision", "recall", "agreement", "copies", "accuracy")
"""Rows of the table; the report has all."""
WARNING_LINES = 2
"""On a terminal, and one for how many more there are; the report has all."""


def print_outcome(single: SingleRun, finished: RunResult, where: Sequence[str]) -> None:
    """Print values, warnings, near copies, where everything is, and what to run next.

    Args:
        single: the run.
        finished: how it ended.
        where: options that name the store.
    """
    best = finished.best
    assert best is not None
    shown = {key: value for key, value in best.metrics.items() if key.partition("/")[0] in METRICS}
    stdout_console.print(metrics_table(shown, stdout_console.width))
    _print_warnings(best.warnings)
    if (share := best.metrics.get("copies/overall")) is not None:
        images = best.provenance["n_generated"]
        stderr_console.print(
            f"copies   {round(share * images)} of {images:,} generated images are near copies of "
            "training images"
        )
    stderr_console.print(f"report   {single.store.uri_of(f'{best.folder}/{EVALUATION_PAGE}')}")
    stderr_console.print(f"grid     {SAMPLE_GRID} beside it")
    name = single.name
    has_omega = "omega" in type(single.experiment.sampling.guidance).model_fields
    kind = [] if has_omega else ["sampling.guidance.name=cfg"]
    next_commands(
        ["whipray", "evaluate", name, *kind, "sampling.guidance.omega=1.5", *where],
        ["whipray", "sample", name, "--per-class", "8", "--out", "samples.png", *where],
        ["whipray", "ui", *where],
    )


def _print_warnings(lines: Sequence[str]) -> None:
    """Print the first warnings, as many as a screen has room for; all of them in a log."""
    shown = len(lines)
    if stderr_console.is_terminal:
        heights = accumulate(-(-(len(line) + 9) // stderr_console.width) for line in lines)
        shown = max(1, sum(height <= WARNING_LINES for height in heights))
    print_warnings(lines[:shown])
    if (more := len(lines) - shown) > 0:
        stderr_console.print(f"         {counted(more, 'warnings')} more in the report")
