"""Which trials of a sweep are not distinguished from the best one by their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from zipfile import BadZipFile

import numpy as np

from ...trainers.errors import Problem
from ...trainers.scratch import Scratch
from ..evaluation.arrays import Floats
from ..evaluation.goal import Goal
from ..evaluation.holm import adjusted
from ..evaluation.metrics import OUTPUTS
from ..storage import layout
from ..storage.store import Storage
from .trial_records import Row


@dataclass(frozen=True)
class Verdict:
    """How the best trial stands against the other complete ones."""

    best: int
    rank_by: str
    others: tuple[int, ...]
    """All other complete trials."""
    not_distinguished: tuple[int, ...]
    """Those whose difference to the best is within noise, or cannot be computed."""
    confidence: float

    @property
    def sentence(self) -> str:
        """Return the verdict as a sentence without its full stop."""
        if not self.others:
            return f"trial {self.best} is the only one that finished: it is better than no other"
        if OUTPUTS[Goal.parse(self.rank_by).metric].interval == "given":
            return (
                f"trial {self.best} has the best {self.rank_by}; that it is better than others is not known, for "
                "differences of it have no intervals: look at each one's own, and train more seeds"
            )
        how = f"{self.rank_by}, paired, {100 * self.confidence:g} % over all comparisons (Holm)"
        if not self.not_distinguished:
            count = len(self.others)
            others = "the other one" if count == 1 else f"the {count} others"
            return f"trial {self.best} is better than {others} ({how})"
        numbers = ", ".join(map(str, self.not_distinguished))
        return (
            f"trial {self.best} has the best value but is not distinguished from {numbers} ({how}); "
            "more images or seeds would"
        )


def judge(
    root: Storage, sweep: str, rows: Sequence[Row], best: Row, rank_by: str, confidence: float
) -> Verdict:
    """Compare the best trial with every other complete one, by the replicates in the store.

    Args:
        root: the store's top.
        sweep: its name.
        rows: all trials.
        best: the best of them.
        rank_by: such as `kid/overall`.
        confidence: of all comparisons together.
    """
    complete = [row for row in rows if row["state"] == "complete" and row is not best]
    first = _replicates(root, sweep, best, rank_by)
    p_values: dict[int, float] = {}
    for row in complete:
        other = _replicates(root, sweep, row, rank_by)
        if first is not None and other is not None and other.shape == first.shape:
            p_values[row["number"]] = p_value(other - first)
    apart = beyond_noise(p_values, 1 - confidence)
    others = tuple(row["number"] for row in complete)
    return Verdict(
        best["number"], rank_by, others, tuple(n for n in others if n not in apart), confidence
    )


def p_value(differences: Floats) -> float:
    """Return how often equal models would differ as much, in [0, 1].

    Args:
        differences: (1 + B,), the difference and its replicates. Their standard deviation is used, not
            their tails: some hundred replicates have no tail for the small levels of many comparisons.
    """
    spread = float(np.nanstd(differences[1:]))
    if not np.isfinite(differences[0]) or not spread:
        return 1.0
    return 2 * NormalDist().cdf(-abs(float(differences[0])) / spread)


def beyond_noise(p_values: Mapping[int, float], level: float) -> set[int]:
    """Return the keys whose differences are beyond noise (Holm, Scand. J. Statist. 1979).

    Whatever the number of comparisons, one false one or more is in them with probability `level`.
    """
    return {key for key, p in adjusted(p_values).items() if p <= level}


def _replicates(root: Storage, sweep: str, row: Row, rank_by: str) -> Floats | None:
    """Return a trial's replicates (1 + B,); None where the store does not have them."""
    folder = layout.trial_address(sweep, row["number"]).folder
    evaluation = (row["attrs"].get("summary") or {}).get("evaluation")
    try:
        with Scratch() as scratch:
            local = Path(scratch) / layout.REPLICATES
            root.child(folder).get_file(f"{evaluation}/{layout.REPLICATES}", local)
            with local.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                return np.asarray(file[rank_by], np.float64)
    except (Problem, OSError, EOFError, ValueError, KeyError, BadZipFile):
        return None
