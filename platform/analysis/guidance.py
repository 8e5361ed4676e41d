"""Measure quality over guidance: each combination of omega, steps and sampler on one checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from ...trainers.errors import UsageProblem
from ..config.experiment import with_values
from ..evaluation.goal import Goal
from ..evaluation.metrics import METRIC_OF
from ..evaluation.pages.charts import best_point
from ..evaluation.pages.content import CurvePoint
from ..evaluation.pages.guidance import render_guidance
from ..evaluation.warnings import chosen_among
from ..generation.shards import short_hash
from ..runs.evaluator import Evaluated, curve, prefixed
from ..storage.layout import guidance_page
from ..storage.store import Storage
from .target import Target, find_target

METRICS = ("kid", "fid", "precision_recall")
"""Metrics of every point, besides that of `evaluation.rank_by`."""

TYPES: dict[str, Callable[[str], str | int | float]] = {
    "omega": float,
    "steps": int,
    "sampler": str,
}
KEYS = {
    "omega": "sampling.guidance.omega",
    "steps": "sampling.sampler.steps",
    "sampler": "sampling.sampler.name",
}
EXAMPLES = {"omega": "--omega 0,0.5,1", "steps": "--steps 10,50", "sampler": "--sampler ddim,ddpm"}


@dataclass(frozen=True)
class GuidanceResult:
    """Points over guidance, by sampler, steps and omega."""

    run: str
    points: list[CurvePoint]
    metric: str
    """Metric by which `best` is chosen: that of `evaluation.rank_by`."""
    best: Mapping[str, CurvePoint]
    """The best point of each group of classes: overall, many, medium, few."""
    store: Storage
    page: str
    """Path of the page in the run's store, and in its MLflow run."""
    note: str | None
    """Why the page is not in MLflow; None where it is."""
    warnings: tuple[str, ...]
    """What to know before believing the values."""

    def document(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return {
            "run": self.run,
            "points": [asdict(point) for point in self.points],
            "ranked_by": self.metric,
            "note": self.note,
            "warnings": list(self.warnings),
            "best": {
                group: {"omega": p.omega, "sampler": p.sampler} for group, p in self.best.items()
            },
        }


def measure_guidance(
    root: Storage,
    tracking: str | None,
    name: str,
    overrides: Sequence[str],
    lists: Mapping[str, str | None],
    on_phase: Callable[[str], None],
) -> GuidanceResult:
    """Evaluate every point that is not known yet, from the same noise.

    Args:
        lists: comma-separated values of omega, steps and sampler; None is the run's own.

    Raises:
        UsageProblem: a value that the sampler does not take, or no such run.
    """
    target = find_target(root, tracking, name, overrides)
    ranked = target.experiment.evaluation.goal.metric
    metrics = sorted({*METRICS, METRIC_OF[ranked].name})
    cheap = [f"evaluation.metrics={json.dumps(metrics)}", *overrides]
    target = find_target(root, tracking, name, cheap)
    wanted = {KEYS[key]: parse_list(key, text) for key, text in lists.items() if text is not None}
    points = distinct(
        target, [dict(zip(wanted, v, strict=True)) for v in product(*wanted.values())]
    )
    with target.evaluator(on_phase) as evaluator:
        tried: list[Evaluated] = []
        for values in points:
            evaluator.report_to(prefixed(f"{len(tried) + 1}/{len(points)} · ", on_phase))
            tried.append(evaluator.evaluate_at(values))
        if not target.experiment.evaluation.keep_samples:
            evaluator.delete_samples(tried)
        for point in tried:
            evaluator.value(point)
    curve_points = curve(tried)
    best = best_by_group(curve_points, ranked)
    store = target.run.store
    page = guidance_page(short_hash([point.folder for point in tried]))
    warnings = tuple(dict.fromkeys(line for point in tried for line in point.warnings))
    if len(tried) > 1:
        warnings += (chosen_among(len(tried), f"{ranked} of each group"),)
    text = render_guidance(target.name, curve_points, best, warnings)
    store.write_text(page, text)
    note = target.record(root, lambda run: run.log_text(text, page))
    return GuidanceResult(target.name, curve_points, ranked, best, store, page, note, warnings)


def parse_list(key: str, text: str) -> list[str | int | float]:
    """Return the values of a comma-separated list such as `0,0.5,1`.

    Raises:
        UsageProblem: an empty list, or a value that the option does not take.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageProblem(
            f"--{key} is empty", f"give comma-separated values, such as {EXAMPLES[key]}"
        )
    try:
        return [TYPES[key](part) for part in parts]
    except ValueError as error:
        raise UsageProblem(
            f"--{key} {text} is not a list of {key} values", f"use the form {EXAMPLES[key]}"
        ) from error


def distinct(target: Target, points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points without duplicates, which generate the same images.

    ddpm, for instance, generates the same images whatever the number of steps.

    Raises:
        UsageProblem: a value that the sampler does not take.
    """
    first: dict[str, dict[str, Any]] = {}
    for values in points:
        changed = with_values(target.experiment, values, "the options")
        effective = changed.sampling.effective(changed.process)
        first.setdefault(effective.model_dump_json(), values)
    return list(first.values())


def best_by_group(points: Sequence[CurvePoint], metric: str) -> dict[str, CurvePoint]:
    """Return the best point of each group that has the metric; of equal points the first."""
    keys = dict.fromkeys(key for p in points for key in p.values if key.startswith(f"{metric}/"))
    return {Goal.parse(key).group: best_point(points, key) for key in keys}
