"""Compared runs as a page: every value with its difference to the first run's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from ..bootstrap import Estimate
from ..compare import ComparedRow, Comparison, Difference
from ..goal import Goal
from ..metrics import OUTPUTS
from ..metrics.base import MetricOutput
from .formatting import Axis, Cell, cell
from .page import render

Verdict = Literal["better", "worse", "noise"]


@dataclass(frozen=True)
class ComparedCell:
    """A run's value, and its difference to the first run's."""

    estimate: Cell | None
    difference: Cell | None
    verdict: Verdict | None


@dataclass(frozen=True)
class Table:
    """One metric: groups by runs."""

    name: str
    output: MetricOutput
    rows: tuple[tuple[str, tuple[ComparedCell, ...]], ...]


def render_comparison(comparison: Comparison) -> str:
    """Return the comparison as one self-contained HTML page."""
    shown = [i for i, name in enumerate(comparison.names) if name not in comparison.refused]
    names = [comparison.names[i] for i in shown]
    tables = [
        _table(OUTPUTS[output], output, list(rows), shown)
        for output, rows in groupby(comparison.rows, key=lambda row: row.metric)
    ]
    provenances = comparison.provenances
    keys = list(dict.fromkeys(key for p in provenances for key in p))
    differ = [k for k in keys if any(p.get(k) != provenances[0].get(k) for p in provenances)]
    return render(
        "comparison.html.jinja",
        names=names,
        every_name=comparison.names,
        refused=comparison.refused,
        warnings=comparison.warnings,
        confidence=comparison.confidence,
        by_chance=comparison.by_chance,
        tables=tables,
        tally=[(name, _tally(tables, i)) for i, name in enumerate(names) if i],
        provenances=provenances,
        differ=differ,
        agree=[(k, provenances[0].get(k)) for k in keys if k not in differ],
    )


def _table(
    output: MetricOutput, name: str, rows: Sequence[ComparedRow], shown: Sequence[int]
) -> Table:
    estimates = Axis.of(output, [row.estimates[i] for row in rows for i in shown])
    reach = [abs(x) for row in rows for d in row.differences if d for x in (d.low, d.value, d.high)]
    widest = max([*reach, 1e-12])
    differences = Axis(-widest, widest)

    def compared(e: Estimate | None, d: Difference | None, group: str) -> ComparedCell:
        return ComparedCell(
            cell(e, estimates, output.decimals) if e else None,
            cell(Estimate(d.value, d.low, d.high), differences, output.decimals, sign=True)
            if d
            else None,
            _verdict(d, Goal(name, group, output.better)) if d else None,
        )

    return Table(
        name,
        output,
        tuple(
            (
                row.group,
                tuple(compared(row.estimates[i], row.differences[i], row.group) for i in shown),
            )
            for row in rows
        ),
    )


def _verdict(difference: Difference, goal: Goal) -> Verdict:
    if difference.noise:
        return "noise"
    return "better" if goal.is_better(difference.value, 0.0) else "worse"


def _tally(tables: Sequence[Table], run: int) -> dict[str, int]:
    """Return how many differences of a run are better, worse and within noise."""
    verdicts = [row[run].verdict for table in tables for _, row in table.rows]
    return {verdict: verdicts.count(verdict) for verdict in ("better", "worse", "noise")}
