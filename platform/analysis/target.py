"""Evaluate a run that is there already, with other sampling or evaluation settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...trainers.errors import Problem, UsageProblem
from ..config.experiment import Experiment, TrackingConfig
from ..config.layers import Layer, parse_override, resolve
from ..evaluation.config import ALL_METRICS
from ..runs.evaluator import Evaluated, Evaluator
from ..runs.find_run import StoredRun, find_run
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run, Tracker

CHANGEABLE = ("sampling.", "evaluation.", "scaling.")


@dataclass(frozen=True)
class Target:
    """A run to evaluate, and with which settings."""

    name: str
    place: StoredRun
    experiment: Experiment
    """The run's own, with what is overridden."""

    def evaluator(self, say: Callable[[str], None]) -> Evaluator:
        """Of the run's last checkpoint."""
        return Evaluator(self.experiment, self.place.store, self.place.checkpoint, say)

    def record(self, root: Storage, write: Callable[[Run], None]) -> str | None:
        """Add something to the run's MLflow run; why that could not be, if it could not."""
        try:
            write(Tracker(self.experiment.tracking, root).find(self.place.key))
        except Problem as problem:
            return f"not in MLflow: {problem.what}"
        return None


def find_target(root: Storage, tracking: str | None, name: str, overrides: Sequence[str]) -> Target:
    """A run, SWEEP/TRIAL or models:/NAME@ALIAS, to be evaluated in full unless overridden.

    Args:
        tracking: MLflow's address; None: beside the runs.
        overrides: of `sampling.*`, `evaluation.*` and `scaling.*`.

    Raises:
        UsageProblem: no such run or model, or an override of anything else.
    """
    layers = [parse_override(text) for text in overrides]
    for layer in layers:
        for key in layer.values:
            if not key.startswith(CHANGEABLE):
                raise UsageProblem(
                    f"{key} cannot be changed after the training",
                    "override sampling.*, evaluation.* or scaling.*, or train another run",
                )
    registered: dict[str, object] = {}
    if name.startswith("models:/"):
        from ..tracking.registry import resolve as resolve_model

        version = resolve_model(Tracker(TrackingConfig(uri=tracking), root), name)
        name = f"{version.tags.get('whipray.sweep')}/{version.tags.get('whipray.trial')}"
        found = json.loads(version.tags.get("whipray.sampling", "{}"))
        registered = {f"sampling.{key}": value for key, value in found.items()}
    place = find_run(root, name)
    base = place.experiment.model_copy(
        update={
            "storage": root.config,
            "tracking": place.experiment.tracking.model_copy(update={"uri": tracking})
            if tracking
            else place.experiment.tracking,
        }
    )
    full = {"evaluation.metrics": list(ALL_METRICS)}
    experiment = resolve(
        Experiment,
        [
            Layer("checkpoint", base.model_dump(mode="json")),
            Layer("whipray evaluate", full),
            Layer(f"model {name}", registered),
            *layers,
        ],
    ).value
    return Target(name, place, experiment)


def evaluate_again(target: Target, say: Callable[[str], None]) -> tuple[Evaluated, int]:
    """Measure the run's last checkpoint; what was found, and how many images had to be drawn."""
    with target.evaluator(say) as evaluator:
        found = evaluator.select_best([evaluator.evaluate_at()])
        return found, evaluator.generated
