"""The tables that commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ..analysis.classify.summary import DIFFERENCES
from ..config.points import in_words
from ..evaluation.compare import Comparison
from ..evaluation.goal import Goal
from ..evaluation.pages.content import CurvePoint

MISSING = "–"
GROUPS = ("overall", "many", "medium", "few")
GUIDANCE_METRICS = ("fid/overall", "kid/overall", "kid/few", "recall/overall", "recall/few")
CLASSIFIER_TITLES = {
    "real": "real",
    "real_repeated": "real + repeated",
    "real_and_generated": "real + generated",
    "difference": "difference",
    "difference_to_repeated": "beyond repetition",
}
"""Column titles by the keys of `whipray classify`'s document."""


def metrics_table(metrics: Mapping[str, float]) -> Table:
    """Return one row per metric, one column per group of classes."""
    names = list(dict.fromkeys(key.partition("/")[0] for key in metrics))
    groups = [g for g in GROUPS if any(f"{name}/{g}" in metrics for name in names)]
    table = _table("", *groups)
    for name in names:
        table.add_row(name, *(_metric_cell(metrics, name, group) for group in groups))
    return table


def sweep_table(rows: list[dict[str, Any]], rank_by: str, best: int | None) -> Table:
    """Return one row per trial, the best first; the best is marked, and so are baselines."""
    goal = Goal.parse(rank_by)
    metric = goal.metric
    table = Table(box=None, pad_edge=False)
    for name in ("trial", "what", "omega", *(f"{metric} {g}" for g in GROUPS), "agreement few"):
        table.add_column(name, no_wrap=name != "what")

    def order(row: dict[str, Any]) -> tuple[bool, float]:
        return row["state"] != "complete", goal.sign * (row["value"] or 0.0)

    for row in sorted(rows, key=order):
        summary = row["attrs"].get("summary")
        name = f"{row['number']}{' *' if row['number'] == best else ''}"
        if summary is None:
            reason = row["failure"] or "stopped early" if row["state"] != "running" else ""
            table.add_row(name, describe_trial(row), f"{row['state']} {reason}".strip())
            continue
        metrics = summary["metrics"]
        table.add_row(
            name,
            describe_trial(row),
            f"{summary['sampling']['omega']:g}",
            *(_metric_cell(metrics, metric, group) for group in GROUPS),
            _metric_cell(metrics, "agreement", "few"),
        )
    return table


def describe_trial(row: Mapping[str, Any]) -> str:
    """Return a trial's baseline or hyperparameters in a few words."""
    return f"{row['baseline']} (baseline)" if row["baseline"] else in_words(row["values"])


def comparison_table(comparison: Comparison) -> Table:
    """Return one row per metric and group: values, and differences to the first run."""
    table = _table("", *comparison.names)
    for row in comparison.rows:
        cells = []
        for estimate, difference in zip(row.estimates, row.differences, strict=True):
            cell = MISSING if estimate is None else f"{estimate.value:.4g}"
            if difference is not None:
                interval = f"[{difference.low:+.3g}, {difference.high:+.3g}]"
                cell += f"  {difference.value:+.3g} {interval}"
                cell += " ~" if difference.noise else ""
            cells.append(cell)
        table.add_row(f"{row.metric} {row.group}", *cells)
    return table


def guidance_table(points: Sequence[CurvePoint]) -> Table:
    """Return one row per point, one column per metric."""
    names = [name for name in GUIDANCE_METRICS if any(name in point.values for point in points)]
    table = _table("sampler", "steps", "omega", *(name.replace("/", " ") for name in names))
    for point in points:
        estimates = [point.values.get(name) for name in names]
        table.add_row(
            point.sampler,
            str(point.steps),
            f"{point.omega:g}",
            *(f"{e.value:.4g} [{e.low:.4g}, {e.high:.4g}]" if e else MISSING for e in estimates),
        )
    return table


def classifier_table(document: Mapping[str, Any]) -> Table:
    """Return one row per metric, one column per kind of training set and per difference."""
    table = Table(box=None, pad_edge=False)
    arms = document["arms"]
    differences = {name: document[name] for name in DIFFERENCES if name in document}
    for title in ("", *(CLASSIFIER_TITLES[key] for key in (*arms, *differences))):
        table.add_column(title, no_wrap=not title)
    for name in next(iter(arms.values()))["figures"]:
        cells = [_estimate_cell(arm["figures"][name]) for arm in arms.values()]
        for difference in differences.values():
            within = " within noise" if difference[name]["within_noise"] else ""
            cells.append(_estimate_cell(difference[name], "+") + within)
        table.add_row(name.replace("/", " "), *cells)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _metric_cell(metrics: Mapping[str, float], metric: str, group: str) -> str:
    """Return a value as `0.12 [0.10, 0.15]`, or a dash."""
    value = metrics.get(f"{metric}/{group}")
    if value is None:
        return MISSING
    low, high = metrics[f"{metric}/{group}_low"], metrics[f"{metric}/{group}_high"]
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _estimate_cell(entry: Mapping[str, Any], sign: str = "") -> str:
    """Return an entry as `0.512 [0.498, 0.526]`, or its value alone where there is no interval."""
    value = f"{entry['value']:{sign}.3f}"
    if entry["low"] is None:
        return value
    return f"{value} [{entry['low']:{sign}.3f}, {entry['high']:{sign}.3f}]"
