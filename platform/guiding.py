"""Quality over guidance: every combination of omega, steps and sampler on one checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from ..trainers.errors import UsageProblem
from .evaluating import find_target
from .evaluation.config import LOWER_IS_BETTER
from .evaluation.evaluator import Evaluated, curve, prefixed
from .evaluation.pages.content import CurvePoint
from .evaluation.pages.guidance import render_guidance
from .evaluation.shards import short_hash
from .layers import parse_override
from .storage import Storage

MEASURES = "evaluation.measures=[kid,fid,precision_recall,agreement]"


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
    target = find_target(root, tracking, name, [MEASURES, *overrides])
    wanted = {f"sampling.{key}": parse_list(key, text) for key, text in lists.items() if text}
    points = [dict(zip(wanted, values, strict=True)) for values in product(*wanted.values())]
    with target.evaluator(say) as evaluator:
        tried: list[Evaluated] = []
        for values in points:
            evaluator.say = prefixed(f"{len(tried) + 1}/{len(points)} · ", say)
            tried.append(evaluator.at(values))
    number = target.experiment.evaluation.rank_by.partition("/")[0]
    found = curve(tried)
    best = best_by_group(found, number)
    store = target.place.store
    page = f"guidance/{short_hash([point.folder for point in tried])}.html"
    text = render_guidance(target.name, found, best)
    store.write_text(page, text)
    note = target.record(root, lambda run: run.text(text, page))
    return Guided(target.name, found, number, best, store, page, note)


def parse_list(key: str, text: str) -> list[Any]:
    """`0,0.5,1` -> its values."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageProblem(f"--{key} is empty", f"give values with commas, such as --{key} 0,1")
    return [parse_override(f"x={part}").values["x"] for part in parts]


def best_by_group(points: Sequence[CurvePoint], number: str) -> dict[str, CurvePoint]:
    """The best point of each group that has the number; the first of equals."""
    sign = 1 if number in LOWER_IS_BETTER else -1
    groups = dict.fromkeys(
        key.partition("/")[2] for p in points for key in p.numbers if key.startswith(f"{number}/")
    )
    return {
        group: min(
            (p for p in points if f"{number}/{group}" in p.numbers),
            key=lambda p: sign * p.numbers[f"{number}/{group}"].value,
        )
        for group in groups
    }
