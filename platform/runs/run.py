"""A run from end to end: train, evaluate at several guidance strengths, log.

`whipray train` executes one run, a sweep many.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, TypeVar

from ...trainers.checkpointing import check_same_run
from ...trainers.errors import CheckpointProblem, Problem
from ...trainers.guidance import Autoguidance
from ...trainers.hooks import Progress
from ..compute.interrupts import PreemptionWatcher
from ..compute.ray_session import run_on_worker
from ..config.experiment import CHANGEABLE_ON_RESUME, Experiment
from ..config.layers import flatten
from ..config.space import Space
from ..evaluation.evaluate import check_groups
from ..storage import layout
from ..storage.checkpoints import CheckpointStore
from ..storage.layout import PRETRAINED_RECORD
from ..storage.pretrained import PretrainedRecord
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run
from .evaluation_files import EvaluationFiles
from .evaluator import Evaluated, OnShare, open_evaluator
from .guidance_search import search_guidance
from .local_training import ReportCallback, TrainingResult, train_in_process_group
from .preflight import Subject, check_continued
from .ray_training import log_report, train_on_workers
from .resolve_guide import check_guides_exist
from .resolve_pretrained import resolve_pretrained
from .run_note import describe_images, log_datasets, note_of_run
from .speed import step_key
from .work import points_of

log = logging.getLogger(__name__)

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
    return run_on_worker(scaling, task, max_retries=scaling.max_failures)


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


@dataclass(frozen=True)
class Prepared:
    """What the beginning of a run logs."""

    dataset: dict[str, Any]
    """Classes, counts and fingerprints of the images."""
    pretrained: PretrainedRecord | None
    """The model that it starts from, if any."""


def prepare(subject: Subject) -> Prepared:
    """Return what `begin` logs, after the last checks; what it starts from or is guided by is stored, last.

    Raises:
        Problem: the data cannot be used, or the run was begun with others or as another experiment.
        UsageProblem, CheckpointProblem: as `resolve_pretrained`.
    """
    experiment = subject.experiment
    data = subject.load(experiment.data)
    check_groups(experiment.evaluation, data.train.class_counts.tolist())
    check_continued(replace(subject))  # another process may have trained it since it was read
    dataset = {**describe_images(data), "notes": data.report.as_json()}
    names, shape = data.train.class_names, data.train.image_shape
    guidance = experiment.effective_sampling.guidance
    guides = [guidance.guide] if isinstance(guidance, Autoguidance) else []
    check_guides_exist(experiment, subject.store, guides, names, shape)
    return Prepared(dataset, resolve_pretrained(experiment, subject.store, names, shape))


def begin(plan: Plan, prepared: Prepared | None = None) -> None:
    """Log what is about to run: config, code, class counts of the data, pretrained model.

    What an earlier command logged for the run is replaced, so everything is checked before.

    Args:
        prepared: as `prepare` returned it; None: prepare it now.

    Raises:
        Problem: as `prepare`.
    """
    prepared = prepared or prepare(Subject(plan.experiment, plan.store))
    plan.run.log_config(plan.experiment)
    plan.run.set_tags({layout.Tag.STEP: step_key(plan.experiment)})
    plan.run.log_code()
    plan.run.log_json(prepared.dataset, layout.Artifact.DATASET)
    log_datasets(plan.run, plan.experiment, prepared.dataset)
    plan.run.set_note(note_of_run(plan.run, plan.store, plan.experiment, prepared.dataset))
    for note in prepared.dataset["notes"]:
        _say_once(note["text"])
    if record := prepared.pretrained:
        plan.run.set_tags(record.tags())
        plan.run.log_json(record.model_dump(), PRETRAINED_RECORD)


@cache
def _say_once(line: str) -> None:
    """Show a line of the data's report; the trainings of a sweep have the same."""
    log.warning("data: %s", line)
