"""Quality over guidance: every combination of omega, steps and sampler on one checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from ...trainers.errors import UsageProblem
from ..config.experiment import with_values
from ..evaluation.config import LOWER_IS_BETTER, METRIC_OF
from ..evaluation.pages.content import CurvePoint
from ..evaluation.pages.guidance import render_guidance
from ..generation.shards import short_hash
from ..runs.evaluator import Evaluated, curve, prefixed
from ..storage.store import Storage
from .target import Target, find_target

METRICS = ("kid", "fid", "precision_recall")
"""What is measured at every point, and what `evaluation.rank_by` needs."""


@dataclass(frozen=True)
class Guided:
    """Points over guidance, by sampler, steps and omega."""

    run: str
    points: list[CurvePoint]
    number: str
    """What `best` is judged by: that of `evaluation.rank_by`."""
    best: Mapping[str, CurvePoint]
    """By group: overall, many, medium, few."""
    store: Storage
    page: str
    """In the run's store, and in its MLflow run."""
    note: str | None
    """Why it is not in MLflow, if it is not."""

    def document(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "run": self.run,
            "points": [asdict(point) for point in self.points],
            "ranked_by": self.number,
            "note": self.note,
            "best": {
                group: {"omega": p.omega, "steps": p.steps, "sampler": p.sampler}
                for group, p in self.best.items()
            },
        }


def measure_guidance(
    root: Storage,
    tracking: str | None,
    name: str,
    overrides: Sequence[str],
    lists: Mapping[str, str | None],
    say: Callable[[str], None],
) -> Guided:
    """Measure every point that is not known yet, from the same noise.

    Args:
        lists: comma-separated values of omega, steps and sampler; None is the run's own.

    Raises:
        UsageProblem: a value that the sampler does not take, or no such run.
    """
    target = find_target(root, tracking, name, overrides)
    ranked = target.experiment.evaluation.rank_by.partition("/")[0]
    metrics = sorted({*METRICS, METRIC_OF[ranked]})
    cheap = [f"evaluation.metrics={json.dumps(metrics)}", *overrides]
    target = find_target(root, tracking, name, cheap)
    wanted = {
        f"sampling.{key}": parse_list(key, text) for key, text in lists.items() if text is not None
    }
    points = distinct(
        target, [dict(zip(wanted, v, strict=True)) for v in product(*wanted.values())]
    )
    with target.evaluator(say) as evaluator:
        tried: list[Evaluated] = []
        for values in points:
            evaluator.say = prefixed(f"{len(tried) + 1}/{len(points)} · ", say)
            tried.append(evaluator.evaluate_at(values))
        if not target.experiment.evaluation.keep_samples:
            evaluator.delete_samples(tried)
        for point in tried:
            evaluator.value(point)
    found = curve(tried)
    best = best_by_group(found, ranked)
    store = target.place.store
    page = f"guidance/{short_hash([point.folder for point in tried])}.html"
    text = render_guidance(target.name, found, best)
    store.write_text(page, text)
    note = target.record(root, lambda run: run.log_text(text, page))
    return Guided(target.name, found, ranked, best, store, page, note)


def parse_list(key: str, text: str) -> list[str | int | float]:
    """`0,0.5,1` -> its values.

    Raises:
        UsageProblem: nothing in it, or something that this option does not take.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageProblem(f"--{key} is empty", f"give values with commas, such as {EXAMPLES[key]}")
    try:
        return [TYPES[key](part) for part in parts]
    except ValueError as error:
        raise UsageProblem(
            f"--{key} {text}: not a list of {key} values", f"give them as {EXAMPLES[key]}"
        ) from error


TYPES: dict[str, Callable[[str], str | int | float]] = {
    "omega": float,
    "steps": int,
    "sampler": str,
}
EXAMPLES = {"omega": "--omega 0,0.5,1", "steps": "--steps 10,50", "sampler": "--sampler ddim,ddpm"}


def distinct(target: Target, points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points without those that draw what another draws, such as ddpm in other steps.

    Raises:
        UsageProblem: a value that sampling does not take.
    """
    found: dict[str, dict[str, Any]] = {}
    for values in points:
        changed = with_values(target.experiment, values, "the options")
        drawn = changed.sampling.effective(changed.diffusion.timesteps)
        found.setdefault(drawn.model_dump_json(), values)
    return list(found.values())


def best_by_group(points: Sequence[CurvePoint], number: str) -> dict[str, CurvePoint]:
    """The best point of each group that has the number; the first of equals."""
    sign = 1 if number in LOWER_IS_BETTER else -1
    groups = dict.fromkeys(
        key.partition("/")[2] for p in points for key in p.values if key.startswith(f"{number}/")
    )
    return {
        group: min(
            (p for p in points if f"{number}/{group}" in p.values),
            key=lambda p: sign * p.values[f"{number}/{group}"].value,
        )
        for group in groups
    }
