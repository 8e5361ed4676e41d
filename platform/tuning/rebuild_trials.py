"""MLflow runs of a sweep's trials, made again from the study and the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...trainers.errors import CheckpointProblem
from ..config.experiment import Experiment
from ..runs.rebuild import LostRun, OnNote, is_missing, rebuild_run
from ..storage import layout
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run
from ..tracking.tracker import Tracker
from .trial import FAILED, FINISHED, STOPPED
from .trial_records import Point, Row, run_name, run_tags

STATUSES = {"complete": "FINISHED", "pruned": "FINISHED", "fail": "FAILED", "running": "KILLED"}
"""Of MLflow, by the trial's state."""
OUTCOMES = {"complete": FINISHED, "pruned": STOPPED, "fail": FAILED}


def rebuild_trials(
    tracker: Tracker,
    root: Storage,
    sweep: str,
    parent: Run,
    rows: Sequence[Row],
    experiment_for: Callable[[Point], Experiment],
    on_note: OnNote,
) -> list[str]:
    """Make the MLflow runs that are missing of these trials; return their targets.

    Args:
        sweep: its name, whose driver this process is.
        parent: its MLflow run.
        rows: of the trials, as `Study.table`.
        experiment_for: of a point, for a trial that failed before its first checkpoint.
        on_note: takes a line about what is damaged and therefore left out.
    """
    rebuilt = []
    for row in rows:
        address = layout.trial_address(sweep, row["number"])
        if not is_missing(tracker, address.key):
            continue
        point = Point(row["number"], row["values"], True, row["baseline"])
        tags = run_tags(sweep, point)
        if outcome := OUTCOMES.get(row["state"]):
            tags[layout.Tag.OUTCOME] = outcome
        if row["failure"]:
            tags[layout.Tag.PROBLEM] = row["failure"]
        summary = row["attrs"].get("summary") or {}
        lost = LostRun(
            address,
            run_name(point),
            tags,
            parent.run_id,
            experiment_for(point),
            summary.get("evaluation"),
            STATUSES[row["state"]],
        )
        target = layout.trial_target(sweep, row["number"])
        try:
            rebuild_run(tracker, root, lost, on_note)
            rebuilt.append(target)
        except CheckpointProblem as problem:
            on_note(f"{target} is left out: {problem.what}")
    return rebuilt
