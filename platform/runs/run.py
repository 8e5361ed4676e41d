"""A run from end to end: train, evaluate at several guidance strengths, log.

`whipray train` executes one run, a sweep many.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from ...trainers.checkpointing import check_same_run
from ...trainers.errors import CheckpointProblem, Problem
from ...trainers.hooks import Progress
from ..compute.interrupts import PreemptionWatcher
from ..compute.ray_session import run_on_worker
from ..config.experiment import CHANGEABLE_ON_RESUME, Experiment
from ..config.layers import flatten
from ..config.space import Space
from ..storage import layout
from ..storage.checkpoints import CheckpointStore
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run
from .evaluation_files import EvaluationFiles
from .evaluator import Evaluated, OnShare, open_evaluator
from .guidance_search import search_guidance
from .local_training import ReportCallback, TrainingResult, train_in_process_group
from .ray_training import log_report, train_on_workers
from .run_note import describe_images, note_of_run
from .work import points_of

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """A run to execute; pickles, so that any process can do it."""

    experiment: Experiment
    store: Storage
    """The run's folder in the store."""
    run: Run
    """Its MLflow run; only the process that executes the plan writes it."""
    space: Space | None = None
    """The search space whose `sample:` level is searched on the checkpoint."""


@dataclass(frozen=True)
class RunCallbacks:
    """Callbacks for progress, status text and early stopping."""

    on_progress: Callable[[Progress], None] = lambda _progress: None
    on_phase: Callable[[str], None] = lambda _line: None
    on_share: OnShare = lambda _share: None
    """Takes the share of the evaluation that is done."""
    should_stop: ReportCallback = lambda _progress: False
    """Called with each report; True stops the training early."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    trained: TrainingResult
    best: Evaluated | None
    """None where it was stopped early."""
    tried: list[Evaluated] = field(default_factory=list)
    """Every sampling setting that was evaluated."""
    generated: int = 0
    """Number of images that were generated for it."""

    def summary(self) -> dict[str, Any]:
        """Return what a sweep keeps of the run, as JSON types."""
        assert self.best is not None
        return {
            "checkpoint": self.trained.checkpoint,
            "images_seen": self.trained.images_seen,
            "metrics": self.best.metrics,
            "sampling": self.best.sampling.model_dump(mode="json"),
            "values": self.best.values,
            "evaluation": self.best.folder,
            "provenance": self.best.provenance,
            "warnings": list(self.best.warnings),
        }


def train(plan: Plan, callbacks: RunCallbacks, forward: tuple[Any, ...] = ()) -> TrainingResult:
    """Train, in this process or, with several workers, through Ray Train.

    Args:
        plan: what to train.
        callbacks: called with each report.
        forward: further Ray Train callbacks, for several workers.

    Raises:
        Problem: as `train_in_process_group` and `train_on_workers`.
    """
    if done := finished_before(plan):
        return done
    if plan.experiment.scaling.workers > 1:
        from ..compute.progress_queue import OnReport  # imports Ray, a second that one worker saves

        log = OnReport(partial(log_report, plan.run))
        return train_on_workers(plan.experiment, plan.store, [log, *forward], callbacks.should_stop)

    def on_report(progress: Progress) -> bool:
        plan.run.log_metrics(progress.metrics, progress.images_seen)
        callbacks.on_progress(progress)
        return callbacks.should_stop(progress)

    return train_in_process_group(
        plan.experiment,
        plan.store,
        on_report,
        PreemptionWatcher(),
        plan.run.flush_best_effort,
        lambda strip: plan.run.log_image(strip.png, "preview", strip.images_seen),
    )


def train_on_ray(plan: Plan, callbacks: RunCallbacks) -> TrainingResult:
    """Train where Ray has room: several workers through Ray Train, one as a task of its own.

    Args:
        plan: what to train.
        callbacks: called on other processes, so they pickle.

    Raises:
        Problem: as `train`.
    """
    from ..compute.progress_queue import OnReport

    scaling = plan.experiment.scaling
    if scaling.workers > 1:
        return train(plan, callbacks, (OnReport(callbacks.on_progress),))
    task = partial(run_in_ray_task, plan, partial(train, plan, callbacks))
    newest = CheckpointStore(plan.store).latest
    return run_on_worker(scaling, task, newest, max_retries=scaling.max_failures)


def run_in_ray_task(plan: Plan, work: Callable[[], T]) -> T:
    """Do the work of a Ray task, and write all metrics before the task's process may end."""
    try:
        done = work()
    except BaseException:
        with suppress(Problem):  # the error that came first is the one to raise
            plan.run.flush_best_effort()
        raise
    plan.run.flush()
    return done


def finished_before(plan: Plan) -> TrainingResult | None:
    """Return the result of a training that ended before; None if there is something left to train.

    So that no worker is started for nothing.

    Raises:
        CheckpointProblem: the run was begun with another experiment.
    """
    store = CheckpointStore(plan.store)
    name = store.latest()
    if name is None:
        return None
    try:
        if store.read_manifest(name).images_seen < plan.experiment.training.images:
            return None
        manifest = store.verify(name)
    except CheckpointProblem:
        return None  # the training skips it with a note
    now = plan.experiment.model_dump(mode="json")
    check_same_run(flatten(manifest.config), flatten(now), CHANGEABLE_ON_RESUME)
    return TrainingResult(name, manifest.images_seen, ["trained before"])


def evaluate(plan: Plan, checkpoint: str, callbacks: RunCallbacks) -> RunResult:
    """Search the `sample:` level on a checkpoint, and log the results to MLflow."""
    with open_evaluator(
        plan.experiment, plan.store, checkpoint, callbacks.on_phase, plan.run.history
    ) as evaluator:
        evaluator.points = points_of(plan.experiment, plan.space)
        evaluator.on_share = callbacks.on_share
        tried = search_guidance(evaluator, plan.space)
        best = evaluator.select_best(tried)
        images_seen = evaluator.inputs.manifest.images_seen
        _log_results(plan, evaluator.files, best, tried)
        images = describe_images(evaluator.inputs.splits)
        plan.run.set_note(note_of_run(plan.run, plan.store, plan.experiment, images, best.metrics))
        return RunResult(
            TrainingResult(checkpoint, images_seen, []), best, tried, evaluator.images_generated
        )


def _log_results(
    plan: Plan,
    files: EvaluationFiles,
    best: Evaluated,
    tried: list[Evaluated],
) -> None:
    """Log the best setting's metrics and files, and the values of all settings."""
    rank_by = plan.experiment.evaluation.rank_by
    points = [
        {
            **point.values,
            "setting": point.sampling.label,
            "omega": point.sampling.facts().get("omega"),
            rank_by: point.metrics[rank_by],
        }
        for point in tried
    ]
    plan.run.log_json({"best": best.values, "tried": points}, layout.Artifact.GUIDANCE_CURVE)
    files.log_best(plan.run, best.folder, best.metrics, best.provenance, best.warnings)
