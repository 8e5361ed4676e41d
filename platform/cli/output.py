"""How the commands speak: tables and JSON on stdout, talk on stderr."""

from __future__ import annotations

import json
import sys
import tempfile
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..config.points import in_words
from ..evaluation.config import LOWER_IS_BETTER
from ..foundation.job import in_cluster_job

if TYPE_CHECKING:
    from ..evaluation.compare import Comparison
    from ..evaluation.pages.content import CurvePoint
    from ..storage.store import Storage

SCHEMA = 1
"""Of every JSON document; changed when a key goes or changes its meaning."""

LOG_WIDTH = 200  # of tables that go into a file or a pipe, where nothing need be cut

stdout_console = Console(highlight=False, soft_wrap=True)
if not stdout_console.is_terminal:
    stdout_console.width = LOG_WIDTH
stderr_console = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps({"schema": SCHEMA, **document}, indent=1, default=str) + "\n")


def print_error(what: str, fix: str, code: int, as_json: bool) -> None:
    """What is wrong and what to do; on stdout too where JSON was asked for."""
    if as_json:
        print_json({"error": {"code": code, "message": what, "hint": fix}})
    stderr_console.print(f"error: {what}", markup=False)
    stderr_console.print(f"fix: {fix}", markup=False)


def next_commands(*commands: str) -> None:
    """What to type next; nothing where nobody types, in a cluster's job."""
    if in_cluster_job():
        return
    stderr_console.print("\nnext:")
    for command in commands:
        stderr_console.print(f"  {command}", markup=False)


GROUPS = ("overall", "many", "medium", "few")


def metric_cell(metrics: Mapping[str, float], metric: str, group: str) -> str:
    """`0.12 [0.10, 0.15]`, or a dash."""
    value = metrics.get(f"{metric}/{group}")
    if value is None:
        return "–"
    low, high = metrics[f"{metric}/{group}_low"], metrics[f"{metric}/{group}_high"]
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def sweep_table(rows: list[dict[str, Any]], rank_by: str, best: int | None) -> Table:
    """A line a trial, the best first; baselines and the champion marked."""
    metric = rank_by.partition("/")[0]
    sign = 1 if metric in LOWER_IS_BETTER else -1
    table = Table(title=None, box=None, pad_edge=False)
    for name in ("trial", "what", "omega", *(f"{metric} {g}" for g in GROUPS), "agreement few"):
        table.add_column(name, no_wrap=name != "what")

    def order(row: dict[str, Any]) -> tuple[bool, float]:
        return row["state"] != "complete", sign * (row["value"] or 0.0)

    for row in sorted(rows, key=order):
        summary = row["attrs"].get("summary")
        name = f"{row['number']}{' *' if row['number'] == best else ''}"
        if summary is None:
            reason = row["failure"] or "stopped early" if row["state"] != "running" else ""
            table.add_row(name, what(row), f"{row['state']} {reason}".strip())
            continue
        metrics = summary["metrics"]
        table.add_row(
            name,
            what(row),
            f"{summary['sampling']['omega']:g}",
            *(metric_cell(metrics, metric, group) for group in GROUPS),
            metric_cell(metrics, "agreement", "few"),
        )
    return table


def what(row: Mapping[str, Any]) -> str:
    """A trial in a few words."""
    return f"{row['baseline']} (baseline)" if row["baseline"] else in_words(row["values"])


def metrics_table(metrics: Mapping[str, float]) -> Table:
    """A row a number; columns overall, many, medium, few."""
    table = Table(box=None, pad_edge=False)
    names = list(dict.fromkeys(key.partition("/")[0] for key in metrics))
    groups = [g for g in GROUPS if any(f"{name}/{g}" in metrics for name in names)]
    for column in ("", *groups):
        table.add_column(column, no_wrap=True)
    for name in names:
        table.add_row(name, *(metric_cell(metrics, name, group) for group in groups))
    return table


def comparison_table(comparison: Comparison) -> Table:
    """A row a number and group; the first run's estimates, then every other's and the difference."""
    table = Table(box=None, pad_edge=False)
    for column in ("", *comparison.names):
        table.add_column(column, no_wrap=True)
    for row in comparison.rows:
        cells = []
        for estimate, apart in zip(row.estimates, row.differences, strict=True):
            cell = "–" if estimate is None else f"{estimate.value:.4g}"
            if apart is not None:
                cell += f"  {apart.value:+.3g} [{apart.low:+.3g}, {apart.high:+.3g}]"
                cell += " ~" if apart.noise else ""
            cells.append(cell)
        table.add_row(f"{row.metric} {row.group}", *cells)
    return table


CURVE = ("fid/overall", "kid/overall", "kid/few", "recall/overall", "recall/few")


def guidance_table(points: Sequence[CurvePoint]) -> Table:
    """A row a point, a column a number."""
    table = Table(box=None, pad_edge=False)
    names = [name for name in CURVE if any(name in point.values for point in points)]
    for column in ("sampler", "steps", "omega", *(name.replace("/", " ") for name in names)):
        table.add_column(column, no_wrap=True)
    for point in points:
        found = [point.values.get(name) for name in names]
        table.add_row(
            point.sampler,
            str(point.steps),
            f"{point.omega:g}",
            *(f"{e.value:.4g} [{e.low:.4g}, {e.high:.4g}]" if e else "–" for e in found),
        )
    return table


def show_page(store: Storage, name: str) -> None:
    """Open a page of the store in a browser; one in a bucket is fetched first."""
    file = Path(store.path) / name
    if not store.is_folder:
        file = Path(tempfile.mkdtemp(prefix="whipray-")) / Path(name).name
        store.get_file(name, file)
    if not webbrowser.open(file.as_uri()):
        stderr_console.print(f"no browser was found: open {file}", markup=False)
