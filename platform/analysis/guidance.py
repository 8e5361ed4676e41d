"""Measure quality over guidance: each combination of sampling settings on one checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..config.experiment import with_values
from ..config.parameters import Values
from ..evaluation.goal import Goal
from ..evaluation.metrics import METRIC_OF
from ..evaluation.pages.content import BestPoint, CurvePoint
from ..evaluation.pages.guidance import render_guidance
from ..evaluation.pages.settings import Settings
from ..generation.shards import short_hash
from ..runs.evaluator import Evaluated, Evaluator, OnShare, prefixed
from ..storage.layout import guidance_page
from ..storage.store import Storage
from .guidance_points import combinations
from .target import Target, find_target

METRICS = ("kid", "fid", "precision_recall")
"""Metrics of every point, besides that of `evaluation.rank_by`."""
GROUPS = 4
"""Each has a best point, of which at most so many are different: overall, many, medium, few."""


@dataclass(frozen=True)
class GuidanceResult:
    """Points over guidance, in the order in which they were asked for."""

    run: str
    points: list[CurvePoint]
    metric: str
    """Metric by which `best` is chosen: that of `evaluation.rank_by`."""
    best: Mapping[str, BestPoint]
    """The best point of each group of classes: overall, many, medium, few."""
    values: Mapping[str, Values]
    """The settings of each of these that differ from the run's, by dotted key."""
    store: Storage
    page: str
    """Path of the page in the run's store, and in its MLflow run."""
    note: str | None
    """Why the page is not in MLflow; None where it is."""
    warnings: tuple[str, ...]
    """What to know before believing the values."""

    @property
    def settings(self) -> Settings:
        """The points in words."""
        return Settings(self.points)

    def document(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        settings = self.settings
        return {
            "run": self.run,
            "points": [
                {
                    "setting": settings.label(point),
                    **point.sampling.facts(),
                    "mean_omega": point.omega,
                    "values": {name: asdict(e) for name, e in point.values.items()},
                }
                for point in self.points
            ],
            "ranked_by": self.metric,
            "note": self.note,
            "warnings": list(self.warnings),
            "best": {
                group: {
                    "setting": settings.label(best.point),
                    "overrides": self.values[group],
                    "chosen": _estimate(best.point, f"{self.metric}/{group}"),
                    "held_out": None
                    if best.held_out is best.point
                    else _estimate(best.held_out, f"{self.metric}/{group}"),
                }
                for group, best in self.best.items()
            },
        }


def _estimate(point: CurvePoint, key: str) -> dict[str, float] | None:
    return asdict(point.values[key]) if key in point.values else None


def measure_guidance(
    root: Storage,
    tracking: str | None,
    name: str,
    overrides: Sequence[str],
    lists: Mapping[str, Sequence[Any]],
    on_phase: Callable[[str], None],
    on_share: OnShare = lambda _share: None,
) -> GuidanceResult:
    """Evaluate every point that is not known yet, from the same noise, and the best ones from other noise.

    Args:
        lists: values to try of each sampling setting, by dotted key; of omega `OMEGAS` where it is missing.
        on_phase: takes a line about what is being done.
        on_share: takes the share of it that is done.

    Raises:
        UsageProblem: a value that the sampler or the guidance does not take, or no such run.
    """
    target = find_target(root, tracking, name, overrides)
    ranked = target.experiment.evaluation.goal.metric
    metrics = sorted({*METRICS, METRIC_OF[ranked].name})
    cheap = [f"evaluation.metrics={json.dumps(metrics)}", *overrides]
    target = find_target(root, tracking, name, cheap)
    points = distinct(target, combinations(target.experiment.sampling, lists))
    with target.evaluator(on_phase) as evaluator:
        evaluator.check(points)
        seed = evaluator.search_seed if len(points) > 1 else None
        evaluator.on_share = on_share
        evaluator.points = len(points) + (0 if seed is None else min(len(points), GROUPS))
        tried: list[Evaluated] = []
        for values in points:
            evaluator.report_to(prefixed(f"{len(tried) + 1}/{len(points)} · ", on_phase))
            tried.append(evaluator.evaluate_at(values, seed))
        for point in tried:
            evaluator.value(point)
        best = best_by_group(tried, ranked)
        evaluator.points = len(points) + (
            0 if seed is None else len({p.folder for p in best.values()})
        )
        evaluator.report_to(prefixed("best, other noise · ", on_phase))
        again = {
            point.folder: point if seed is None else evaluator.evaluate_at(point.values)
            for point in best.values()
        }
        if not target.experiment.evaluation.keep_samples:
            evaluator.delete_samples([*tried, *again.values()])
        curve_points = evaluator.curve(tried)
        bests = _best_points(evaluator, tried, curve_points, best, again)
    store = target.run.store
    folders = [point.folder for point in (*tried, *again.values())]
    page = guidance_page(short_hash(folders))
    seen = (*tried, *again.values())
    warnings = tuple(dict.fromkeys(line for point in seen for line in point.warnings))
    text = render_guidance(target.name, curve_points, bests, warnings)
    store.write_text(page, text)
    note = target.record(root, lambda run: run.log_text(text, page))
    values = {group: point.values for group, point in best.items()}
    return GuidanceResult(
        target.name, curve_points, ranked, bests, values, store, page, note, warnings
    )


def _best_points(
    evaluator: Evaluator,
    tried: Sequence[Evaluated],
    points: Sequence[CurvePoint],
    best: Mapping[str, Evaluated],
    again: Mapping[str, Evaluated],
) -> dict[str, BestPoint]:
    """Return the best points of each group, as chosen and as other noise has them."""
    of = dict(zip(map(id, tried), points, strict=True))
    return {
        group: BestPoint(
            of[id(chosen)],
            of[id(chosen)]
            if again[chosen.folder] is chosen
            else evaluator.curve([again[chosen.folder]])[0],
        )
        for group, chosen in best.items()
    }


def distinct(target: Target, points: Sequence[Values]) -> list[Values]:
    """Return the points without duplicates, which generate the same images.

    Omega 0, for instance, generates the same images whatever the kind of guidance.

    Raises:
        UsageProblem: a value that the sampler or the guidance does not take.
    """
    first: dict[str, Values] = {}
    for values in points:
        changed = with_values(target.experiment, values, "the options")
        first.setdefault(json.dumps(changed.effective_sampling.identity()), values)
    return list(first.values())


def best_by_group(points: Sequence[Evaluated], metric: str) -> dict[str, Evaluated]:
    """Return the best point of each group that has the metric; of equal points the first."""
    keys = dict.fromkeys(
        key
        for p in points
        for key in p.metrics
        if key.startswith(f"{metric}/") and not key.endswith(("_low", "_high"))
    )
    return {
        goal.group: goal.best((p for p in points if key in p.metrics), lambda p: p.metrics[key])  # noqa: B023
        for key in keys
        for goal in [Goal.parse(key)]
    }
