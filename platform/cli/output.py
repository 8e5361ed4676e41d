"""How the commands speak: tables and JSON on stdout, talk on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ...search_spaces.space import in_words

SCHEMA = 1
"""Of every JSON document; changed when a key goes or changes its meaning."""

LOG_WIDTH = 200  # of tables that go into a file or a pipe, where nothing need be cut

out = Console(highlight=False, soft_wrap=True)
if not out.is_terminal:
    out.width = LOG_WIDTH
talk = Console(stderr=True, highlight=False, soft_wrap=True)


def say_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps({"schema": SCHEMA, **document}, indent=1, default=str) + "\n")


def say_error(what: str, fix: str, code: int, as_json: bool) -> None:
    """What is wrong and what to do; on stdout too where JSON was asked for."""
    if as_json:
        say_json({"error": {"code": code, "message": what, "hint": fix}})
    talk.print(f"error: {what}", markup=False)
    talk.print(f"fix: {fix}", markup=False)


def next_commands(*commands: str) -> None:
    """What to type next."""
    talk.print("\nnext:")
    for command in commands:
        talk.print(f"  {command}", markup=False)


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
    sign = 1 if metric in ("kid", "fid") else -1
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
    """Rows overall, many, medium, few; a column a metric."""
    table = Table(box=None, pad_edge=False)
    names = ("kid", "fid", "recall", "precision", "agreement")
    for name in ("", *names):
        table.add_column(name, no_wrap=True)
    for group in GROUPS:
        if f"kid/{group}" in metrics or f"agreement/{group}" in metrics:
            table.add_row(group, *(metric_cell(metrics, name, group) for name in names))
    return table
