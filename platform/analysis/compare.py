"""Runs side by side: each evaluated as it was, or as overridden, then compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...trainers.errors import UsageProblem
from ...trainers.scratch import Scratch
from ..evaluation.compare import Comparison, compare, read_evaluation
from ..evaluation.pages.comparison import render_comparison
from ..evaluation.report import REPLICATES, REPORT
from ..generation.shards import short_hash
from ..runs.evaluator import prefixed
from ..storage.store import Storage
from .target import evaluate_again, find_target


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison and where its page is."""

    comparison: Comparison
    page: str
    """In the store."""

    def document(self) -> dict[str, Any]:
        """As JSON types; `noise` is told of every difference."""
        found = asdict(self.comparison)
        for row, shown in zip(self.comparison.rows, found["rows"], strict=True):
            for difference, content in zip(row.differences, shown["differences"], strict=True):
                if difference is not None:
                    content["noise"] = difference.noise
        return found


def compare_runs(
    root: Storage,
    tracking: str | None,
    names: Sequence[str],
    overrides: Sequence[str],
    say: Callable[[str], None],
) -> ComparisonResult:
    """Evaluate what is not evaluated yet, and compare all with the first.

    Raises:
        UsageProblem: fewer than two runs, or one of them twice.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageProblem(
            f"compare needs two different runs or more, not {', '.join(names) or 'none'}",
            "name them one after another, the one to compare with first",
        )
    evaluations, places, confidences = [], [], []
    for name in names:
        target = find_target(root, tracking, name, overrides)
        found, _ = evaluate_again(target, prefixed(f"{name}: ", say))
        store = target.place.store
        with Scratch() as scratch:
            for file in (REPORT, REPLICATES):
                store.get_file(f"{found.folder}/{file}", Path(scratch) / file)
            evaluations.append(read_evaluation(Path(scratch), store.uri_of(found.folder)))
            confidences.append(target.experiment.evaluation.confidence)
        places.append(store.uri_of(found.folder))
    comparison = compare(names, evaluations, confidences[0])
    page = f"comparisons/{short_hash(places)}.html"
    root.write_text(page, render_comparison(comparison))
    return ComparisonResult(comparison, page)
