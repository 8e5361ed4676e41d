"""What a sweep came to, and its record in the sweep's MLflow run."""

from __future__ import annotations

from dataclasses import dataclass

from ...trainers.errors import Problem
from ..evaluation.goal import Goal
from ..storage import layout
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run
from .trial_records import Row


@dataclass(frozen=True)
class SweepResult:
    """The trials of a sweep."""

    name: str
    rows: list[Row]
    """All trials, as `Study.table`."""
    best: Row | None
    """The best complete trial, baselines included; None if none is complete."""
    store: Storage
    """The sweep's folder in the store."""
    parent: Run
    """The sweep's MLflow run."""

    def outcome(self, rank_by: str) -> str:
        """Return what it came to, in a sentence."""
        if self.best is None:
            return "No training finished."
        complete = sum(row["state"] == "complete" for row in self.rows)
        value = f"{self.best['value']:.4g}"
        number = self.best["number"]
        return f"Trial {number} is the best of {complete} that finished, with {rank_by} {value}."

    @property
    def problem(self) -> Problem | None:
        """The failure of a sweep in which no training finished, with the first one's reason."""
        if self.best is not None:
            return None
        reasons = [row["failure"] for row in self.rows if row["failure"]]
        why = f": {reasons[0].partition(' — ')[0]}" if reasons else ""
        return Problem(
            f"no training of sweep {self.name} finished{why}",
            "correct the cause; then --resume with a larger --trials, or a new --name",
        )


def best_row(rows: list[Row], goal: Goal) -> Row | None:
    """Return the best complete trial, the earliest of equals."""
    complete = [row for row in rows if row["state"] == "complete"]
    return goal.best(complete, lambda row: float(row["value"])) if complete else None


def log_result(result: SweepResult, rank_by: str) -> None:
    """Log all trials to the sweep's MLflow run, and finish it; FAILED where none finished."""
    table = [
        {
            "trial": row["number"],
            "state": row["state"],
            "baseline": row["baseline"],
            "values": row["values"],
            "failure": row["failure"],
            **(row["attrs"].get("summary") or {}),
        }
        for row in result.rows
    ]
    result.parent.log_json({"rank_by": rank_by, "trials": table}, layout.Artifact.SWEEP)
    if result.best is not None:
        result.parent.log_metrics({f"best/{rank_by}": result.best["value"]}, 0)
        result.parent.set_tags({layout.Tag.BEST_TRIAL: str(result.best["number"])})
    if result.problem is not None:
        result.parent.set_tags({layout.Tag.PROBLEM: str(result.problem)})
    result.parent.finish("FAILED" if result.problem else "FINISHED")
