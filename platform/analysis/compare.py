"""Compare runs: evaluate each one, with overrides if given, and compare them with the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...trainers.errors import UsageProblem
from ..evaluation.compare import Comparison, compare, read_evaluation
from ..evaluation.pages.comparison import render_comparison
from ..generation.shards import short_hash
from ..runs.evaluator import prefixed
from ..storage.layout import EVALUATION_REPORT, REPLICATES, comparison_page
from ..storage.store import Storage
from .target import evaluated_target, find_target


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison and its page."""

    comparison: Comparison
    page: str
    """Path in the store."""

    def document(self) -> dict[str, Any]:
        """Return the comparison as JSON types, with `noise` for every difference."""
        document = asdict(self.comparison)
        for row, entry in zip(self.comparison.rows, document["rows"], strict=True):
            for difference, content in zip(row.differences, entry["differences"], strict=True):
                if difference is not None:
                    content["noise"] = difference.noise
        return document


def compare_runs(
    root: Storage,
    tracking: str | None,
    names: Sequence[str],
    overrides: Sequence[str],
    on_phase: Callable[[str], None],
) -> ComparisonResult:
    """Evaluate the runs that are not evaluated yet, and compare all with the first.

    Raises:
        UsageProblem: fewer than two runs, or one of them twice.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageProblem(
            f"compare needs at least two different runs, not {', '.join(names) or 'none'}",
            "name the runs, the one to compare with first",
        )
    evaluations, uris, confidences = [], [], []
    for name in names:
        target = find_target(root, tracking, name, overrides)
        with evaluated_target(target, prefixed(f"{name}: ", on_phase)) as (evaluator, evaluated):
            uri = target.run.store.uri_of(evaluated.folder)
            local = evaluator.files.fetch(evaluated.folder, (EVALUATION_REPORT, REPLICATES))
            evaluations.append(read_evaluation(local, uri))
        confidences.append(target.experiment.evaluation.confidence)
        uris.append(uri)
    comparison = compare(names, evaluations, confidences[0])
    page = comparison_page(short_hash(uris))
    root.write_text(page, render_comparison(comparison))
    return ComparisonResult(comparison, page)
