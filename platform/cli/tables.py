"""The tables that commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

from pydantic import TypeAdapter
from rich.cells import cell_len
from rich.table import Table

from ...trainers.guidance import AnyGuidance, GuidanceConfig
from ...trainers.samplers import AnySampler, SamplerConfig
from ..config.points import in_words
from ..evaluation.compare import Comparison
from ..evaluation.goal import Goal
from ..evaluation.pages.content import CurvePoint
from ..evaluation.pages.settings import Settings
from .consoles import MISSING, plain_table

GUIDANCE: TypeAdapter[GuidanceConfig] = TypeAdapter(AnyGuidance)
SAMPLER: TypeAdapter[SamplerConfig] = TypeAdapter(AnySampler)
GAP = 2
"""Characters between columns."""
WHAT_WIDTH = 22
"""Characters below which the hyperparameters of a trial are not squeezed; they wrap."""
GROUPS = ("overall", "many", "medium", "few")
WITHOUT_CELLS = 36
"""Characters of the first two columns of `diffult_table`."""
GUIDANCE_METRICS = ("fid/overall", "kid/overall", "kid/few", "recall/overall", "recall/few")


def metrics_table(metrics: Mapping[str, float], width: int | None = None) -> Table:
    """Return one row per metric, one column per group of classes.

    Where a line has no room for every interval, the groups have their values alone.

    Args:
        metrics: by `fid/overall`, `fid/overall_low`, ...
        width: characters of a line; None: there is room for all.
    """
    names = list(dict.fromkeys(key.partition("/")[0] for key in metrics))
    groups = [g for g in GROUPS if any(f"{name}/{g}" in metrics for name in names)]
    rows = [[name, *(_metric_cell(metrics, name, group) for group in groups)] for name in names]
    longest = [max(map(cell_len, column)) for column in zip(["", *groups], *rows, strict=True)]
    if width is not None and sum(longest) + GAP * len(groups) > width:
        rows = [[*row[:2], *(cell.partition(" [")[0] for cell in row[2:])] for row in rows]
    table = plain_table("", *groups)
    for row in rows:
        table.add_row(*row)
    return table


def sweep_table(
    rows: list[dict[str, Any]], rank_by: str, best: int | None, width: int
) -> tuple[Table, list[str]]:
    """Return one row per trial, the best first, and the columns that the width has no room for.

    The best is marked, and so are baselines. Each trial has its number, what it is and its guidance
    whatever the width; of the metrics, the one that ranks is left out last.

    Args:
        width: characters of a line.
    """
    goal = Goal.parse(rank_by)
    sections = [f"{goal.metric}/{group}" for group in GROUPS] + ["agreement/few"]

    def order(row: dict[str, Any]) -> tuple[bool, float]:
        return row["state"] != "complete", goal.sign * (row["value"] or 0.0)

    ordered = sorted(rows, key=order)
    summaries = [row["attrs"].get("summary") for row in ordered]
    numbers = [f"{row['number']}{' *' if row['number'] == best else ''}" for row in ordered]
    columns = {
        "trial": numbers,
        "what": [_what(row) for row in ordered],
        "omega": [_strength(each["sampling"]["guidance"]) if each else "" for each in summaries],
        **_samplers([each["sampling"] if each else {} for each in summaries]),
        **_filled([each.get("values", {}) if each else {} for each in summaries]),
        **{
            name.replace("/", " "): [
                _metric_cell(each["metrics"], *name.split("/")) if each else ""
                for each in summaries
            ]
            for name in sections
            if name == rank_by or any(each and name in each["metrics"] for each in summaries)
        },
    }
    least_first = [f"{goal.metric} {group}" for group in ("many", "medium", "few", "overall")]
    least_first.insert(2, "agreement few")
    least_first.sort(key=lambda name: name == rank_by.replace("/", " "))
    present = [name for name in least_first if name in columns]
    shown, left_out = _fitting(columns, present, width)
    table = Table(box=None, pad_edge=False)
    for name in shown:
        table.add_column(name, no_wrap=name != "what", overflow="fold")
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*cells)
    return table, left_out


def _fitting(
    columns: dict[str, list[str]], least_first: Sequence[str], width: int
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the columns that fit in a line, and the names of those that were left out for it."""
    widths = {name: max(map(cell_len, [name, *cells])) for name, cells in columns.items()}
    widths["what"] = min(widths["what"], WHAT_WIDTH)
    shown, left_out = dict(columns), []
    for name in least_first:
        if sum(widths[each] + GAP for each in shown) - GAP <= width:
            break
        del shown[name]
        left_out.append(name)
    return shown, left_out


def _strength(guidance: Mapping[str, Any]) -> str:
    """Return a guidance in a few words, of plain cfg the number alone."""
    return GUIDANCE.validate_python(guidance).label.removeprefix("omega ")


def _samplers(samplings: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return a column of samplers if they differ, as in a search over them."""
    given = [sampling.get("sampler") for sampling in samplings]
    labels = [SAMPLER.validate_python(each).label if each else "" for each in given]
    return {"sampler": labels} if len({*labels} - {""}) > 1 else {}


def _filled(values: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return a column of how classes were filled up and classifiers trained, as in a search over it."""
    words = [
        in_words({k: v for k, v in each.items() if not k.startswith("sampling.")})
        for each in values
    ]
    return {"filled": words} if any(words) else {}


def _what(row: Mapping[str, Any]) -> str:
    """Return what a trial is, and for one that is not complete what became of it."""
    if row["state"] == "complete":
        return describe_trial(row)
    reason = row["failure"] or ("" if row["state"] == "running" else "stopped early")
    return f"{describe_trial(row)}: {row['state']} {reason}".strip()


def describe_trial(row: Mapping[str, Any]) -> str:
    """Return a trial's baseline or hyperparameters in a few words."""
    return f"{row['baseline']} (baseline)" if row["baseline"] else in_words(row["values"])


def comparison_table(comparison: Comparison) -> Table:
    """Return one row per metric and group: values, and differences to the first run.

    Runs that are left out have no column, and metrics without a value no row.
    """
    shown = [name not in comparison.refused for name in comparison.names]
    table = plain_table("", *compress(comparison.names, shown))
    for row in comparison.rows:
        if not any(compress(row.estimates, shown)):
            continue
        cells = []
        for estimate, difference in compress(
            zip(row.estimates, row.differences, strict=True), shown
        ):
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
    settings = Settings(points)
    table = plain_table(*settings.columns(), *(name.replace("/", " ") for name in names))
    for point in points:
        estimates = [point.values.get(name) for name in names]
        table.add_row(
            *(cell or MISSING for cell in settings.cells(point)),
            *(f"{e.value:.4g} [{e.low:.4g}, {e.high:.4g}]" if e else MISSING for e in estimates),
        )
    return table


def classifier_table(document: Mapping[str, Any]) -> Table:
    """Return one row per metric, one column per kind of training set and per difference."""
    arms, differences = document["arms"], document["differences"]
    titles = [f"{document['compared']} - {arm}" for arm in differences]
    table = plain_table("", *arms, *titles)
    for name in next(iter(arms.values()))["figures"]:
        cells = [_estimate_cell(arm["figures"][name]) for arm in arms.values()]
        for difference in differences.values():
            within = " within noise" if difference[name]["within_noise"] else ""
            cells.append(_estimate_cell(difference[name], "+") + within)
        table.add_row(name.replace("/", " "), *cells)
    return table


def diffult_table(document: Mapping[str, Any], width: int | None = None) -> Table:
    """Return one row per arm and per difference, the headline first; one column per group of classes.

    Where a line has no room for every interval, the arms have their values alone.

    Args:
        width: characters of a line; None: there is room for all.
    """
    arms, added = document["arms"], document["images"]["added"]
    names = [name for name in next(iter(arms.values()))["figures"] if name.startswith("accuracy/")]
    differences = [
        (
            f"{document['compared']} - {arm}",
            [
                _estimate_cell(of[name], "+") + (" ~" if of[name]["within_noise"] else "")
                for name in names
            ],
        )
        for arm, of in document["differences"].items()
    ]
    results = [
        (arm, sum(added[arm]), [_estimate_cell(of["figures"][name]) for name in names])
        for arm, of in arms.items()
    ]
    table = plain_table("", "images added", *(name.replace("/", " ") for name in names))
    cells = [row[-1] for row in (*differences, *results)]
    longest = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    if width is not None and sum(longest) + GAP * len(names) + WITHOUT_CELLS > width:
        results = [(a, n, [cell.partition(" [")[0] for cell in row]) for a, n, row in results]
    for label, row in differences:
        table.add_row(label, "", *row)
    for arm, number, row in results:
        table.add_row(arm, f"{number:,}", *row)
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
