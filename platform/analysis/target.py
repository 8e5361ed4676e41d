"""A finished run as the target of an evaluation, with other sampling or evaluation settings."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from ...trainers.errors import Problem
from ...trainers.format_4 import sampling_of
from ..config.experiment import WHERE_DATA_LIE, Experiment
from ..config.layers import Layer, resolve
from ..config.paths import with_absolute_paths
from ..config.tracking import TrackingConfig
from ..evaluation.config import EvaluationConfig
from ..evaluation.metrics import METRICS, OF_IMAGES
from ..evaluation.pages.training_curves import Series
from ..runs.evaluation_outlook import outlook
from ..runs.evaluator import Evaluated, Evaluator, OnShare, open_evaluator
from ..runs.find_run import StoredRun, find_run
from ..storage.layout import EVALUATION_PAGE, VersionTag
from ..storage.store import Storage
from ..tracking import registry
from ..tracking.mlflow_runs import Run
from ..tracking.tracker import open_existing_tracker, open_tracker
from ..tracking.versions import Version
from .overrides import parse_overrides

log = logging.getLogger(__name__)

CHANGEABLE = ("sampling", "evaluation", "balancing", "classification", "scaling")
"""Sections; also where the data lie, as long as they are the same."""


@dataclass(frozen=True)
class Target:
    """A run to evaluate, and the settings to evaluate it with."""

    name: str
    run: StoredRun
    experiment: Experiment
    """The run's experiment with the overrides."""

    def evaluator(self, on_phase: Callable[[str], None]) -> AbstractContextManager[Evaluator]:
        """Return an evaluator of the run's last checkpoint, to be used as a context."""
        return open_evaluator(
            self.experiment, self.run.store, self.run.checkpoint, on_phase, self._history
        )

    def _history(self) -> Series:
        tracker = open_existing_tracker(self.experiment.tracking, self.run.store.root)
        return tracker.find(self.run.key).history()

    def record(self, root: Storage, write: Callable[[Run], None]) -> str | None:
        """Add something to the run's MLflow run; return why that failed, None where it did not."""
        try:
            write(open_tracker(self.experiment.tracking, root).find(self.run.key))
        except Problem as problem:
            return f"not recorded in MLflow: {problem.what}"
        return None


@dataclass(frozen=True)
class EvaluationResult:
    """An evaluation of a finished run."""

    target: Target
    evaluated: Evaluated
    images_generated: int
    """0 where the result was in the store already."""
    note: str | None
    """Why it is not in MLflow; None where it is."""

    @property
    def page(self) -> str:
        """Path of the report in the run's store."""
        return f"{self.evaluated.folder}/{EVALUATION_PAGE}"


def find_target(root: Storage, tracking: str | None, name: str, overrides: Sequence[str]) -> Target:
    """Return a run as the target of an evaluation, by default with every metric.

    Args:
        tracking: MLflow's tracking URI; None: the database in the store.
        name: a run, SWEEP/TRIAL, or models:/NAME@ALIAS.
        overrides: of `sampling.*`, `evaluation.*` and `scaling.*`; and of where the data lie.

    Raises:
        UsageProblem: no such run or model, or an override of another section.
    """
    layers = parse_overrides(overrides, CHANGEABLE, WHERE_DATA_LIE)
    registered: dict[str, object] = {}
    if name.startswith("models:/"):
        tracker = open_existing_tracker(TrackingConfig(uri=tracking), root)
        version = registry.resolve(tracker, name)
        name, registered = version.origin, registered_sampling(version)
    run = find_run(root, name)
    base = kept_in(run, root, tracking)
    metrics = _metrics_of(base.evaluation)
    experiment = resolve(
        Experiment,
        [
            Layer("checkpoint", base.model_dump(mode="json")),
            Layer("whipray evaluate", {"evaluation.metrics": list(metrics)}),
            Layer(f"model {name}", registered),
            *layers,
        ],
    ).value
    return Target(name, run, with_absolute_paths(experiment))


def registered_sampling(version: Version) -> dict[str, object]:
    """Return the sampling that a model was registered with, by dotted key."""
    sampling = json.loads(version.tags.get(VersionTag.SAMPLING, "{}"))
    if not sampling:
        return {}
    return {f"sampling.{key}": value for key, value in sampling_of(sampling).items()}


def kept_in(run: StoredRun, root: Storage, tracking: str | None) -> Experiment:
    """Return a run's experiment with the store that it is in, and MLflow's tracking URI if one is given."""
    recorded_in = run.experiment.tracking
    if tracking:
        recorded_in = recorded_in.model_copy(update={"uri": tracking})
    return run.experiment.model_copy(update={"storage": root.config, "tracking": recorded_in})


def _metrics_of(config: EvaluationConfig) -> tuple[str, ...]:
    """Return all metrics but those that the run does without: of classifiers, or of features."""
    if not config.uses_features:
        return config.metrics
    return tuple(METRICS) if config.trains_classifiers else OF_IMAGES


@contextmanager
def evaluated_target(
    target: Target,
    on_phase: Callable[[str], None],
    on_share: OnShare = lambda _share: None,
) -> Iterator[tuple[Evaluator, Evaluated]]:
    """Evaluate the run's last checkpoint; inside, the evaluation's files are at hand."""
    with target.evaluator(on_phase) as evaluator:
        evaluator.on_share = on_share
        inputs = evaluator.inputs
        real = inputs.splits.reference.class_counts.tolist()
        for line in outlook(evaluator.experiment, inputs.manifest.class_counts, real):
            log.warning(line)
        yield evaluator, evaluator.select_best([evaluator.evaluate_at()])


def evaluate_run(
    root: Storage,
    tracking: str | None,
    name: str,
    overrides: Sequence[str],
    on_phase: Callable[[str], None],
    on_share: OnShare = lambda _share: None,
) -> EvaluationResult:
    """Evaluate a run and record the result in its MLflow run.

    Args:
        root: the store's top.
        tracking: MLflow's tracking URI; None: the database in the store.
        name: as `find_target`.
        overrides: as `find_target`.
        on_phase: takes a line about what is being done.
        on_share: takes the share of it that is done.

    Raises:
        UsageProblem: as `find_target`.
    """
    target = find_target(root, tracking, name, overrides)
    with evaluated_target(target, on_phase, on_share) as (evaluator, evaluated):

        def log(run: Run) -> None:
            folder = evaluated.folder
            about, warnings = evaluated.provenance, evaluated.warnings
            evaluator.files.log_to(run, folder, about, warnings, folder)

        note = target.record(root, log)
        return EvaluationResult(target, evaluated, evaluator.images_generated, note)
