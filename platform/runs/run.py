"""A run from end to end: train, evaluate at several guidance strengths, record.

`whipray train` does one of these, a sweep many.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ...trainers.errors import CheckpointProblem, Problem
from ...trainers.loop import Progress, check_same_run
from ...trainers.scratch import Scratch
from ..compute.interrupts import PreemptionWatcher
from ..config.experiment import CHANGEABLE_ON_RESUME, Experiment, cache_folder
from ..config.layers import flatten
from ..config.space import Space
from ..evaluation.evaluate import check_groups
from ..storage import layout
from ..storage.checkpoints import CheckpointStore
from ..storage.layout import PRETRAINED_RECORD
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run
from .evaluator import Evaluated, Evaluator
from .guidance_search import search_guidance
from .local_training import ReportCallback, TrainingResult, train_in_process_group
from .ray_training import LogProgress, train_on_workers
from .resolve_pretrained import resolve_pretrained
from .speed import step_key

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """One run to do; pickles, so that it can be done anywhere."""

    experiment: Experiment
    store: Storage
    """The run's place in the store."""
    run: Run
    """Its MLflow run, which this plan's doer alone writes."""
    space: Space | None = None
    """Its `sample:` level is searched."""


@dataclass(frozen=True)
class RunCallbacks:
    """Callbacks for progress, status text and early stopping."""

    on_progress: Callable[[Progress], None] = lambda _progress: None
    on_phase: Callable[[str], None] = lambda _line: None
    should_stop: ReportCallback = lambda _progress: False
    """Called with each report; True stops the training early."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    trained: TrainingResult
    best: Evaluated | None
    """None where it was stopped early."""
    tried: list[Evaluated] = field(default_factory=list)
    generated: int = 0

    def summary(self) -> dict[str, Any]:
        """What a sweep keeps of it, as JSON types."""
        assert self.best is not None
        return {
            "checkpoint": self.trained.checkpoint,
            "images_seen": self.trained.images_seen,
            "metrics": self.best.metrics,
            "sampling": self.best.sampling.model_dump(mode="json"),
            "evaluation": self.best.folder,
            "provenance": self.best.provenance,
        }


def train(plan: Plan, callbacks: RunCallbacks, forward: tuple[Any, ...] = ()) -> TrainingResult:
    """The training alone; in this process, or on Ray Train workers when it has several.

    Args:
        forward: further Ray Train callbacks, for several workers.
    """
    if done := finished_before(plan):
        return done
    if plan.experiment.scaling.workers > 1:
        return train_on_workers(
            plan.experiment, plan.store, [LogProgress(plan.run), *forward], callbacks.should_stop
        )

    def on_report(progress: Progress) -> bool:
        plan.run.log_metrics(progress.metrics, progress.images_seen)
        callbacks.on_progress(progress)
        return callbacks.should_stop(progress)

    return train_in_process_group(
        plan.experiment, plan.store, on_report, PreemptionWatcher(), plan.run.flush_best_effort
    )


def run_in_ray_task(plan: Plan, work: Callable[[], T]) -> T:
    """Work of a Ray task, whose process may end with it: what it told is written first."""
    try:
        done = work()
    except BaseException:
        with suppress(Problem):  # the first problem is the one to tell
            plan.run.flush_best_effort()
        raise
    plan.run.flush()
    return done


def finished_before(plan: Plan) -> TrainingResult | None:
    """What an earlier process trained to the end, so that no worker is started for nothing."""
    store = CheckpointStore(plan.store)
    name = store.latest()
    if name is None:
        return None
    try:
        manifest = store.read_manifest(name)
        store.check_sizes(name, manifest)
    except CheckpointProblem:
        return None  # the training passes over it, and says so
    if manifest.images_seen < plan.experiment.training.images:
        return None
    now = plan.experiment.model_dump(mode="json")
    check_same_run(flatten(manifest.config), flatten(now), CHANGEABLE_ON_RESUME)
    return TrainingResult(name, manifest.images_seen, ["trained before"])


def evaluate(plan: Plan, checkpoint: str, callbacks: RunCallbacks) -> RunResult:
    """Search the guidance of a checkpoint, and record what was found."""
    with Evaluator(plan.experiment, plan.store, checkpoint, callbacks.on_phase) as evaluator:
        tried = search_guidance(evaluator, plan.space)
        best = evaluator.select_best(tried)
        images_seen = evaluator.manifest.images_seen
        _record(plan, best, tried, images_seen)
        return RunResult(
            TrainingResult(checkpoint, images_seen, []), best, tried, evaluator.generated
        )


def _record(plan: Plan, best: Evaluated, tried: list[Evaluated], images_seen: int) -> None:
    """The best point's numbers, and the whole curve over guidance."""
    rank_by = plan.experiment.evaluation.rank_by
    plan.run.log_metrics({**best.metrics, "omega": best.sampling.omega}, images_seen)
    points = [
        {**point.values, "omega": point.sampling.omega, rank_by: point.metrics[rank_by]}
        for point in tried
    ]
    plan.run.log_json({"best": best.values, "tried": points}, layout.Artifact.GUIDANCE_CURVE)
    address = plan.store.uri_of(best.folder)
    plan.run.set_tags({layout.Tag.STORE: plan.store.uri, layout.Tag.EVALUATION: address})
    record(plan.run, plan.store, best, layout.Artifact.EVALUATION)


def record(run: Run, store: Storage, found: Evaluated, name: str) -> None:
    """An evaluation's files in MLflow, as the folder `name`."""
    run.log_json(found.provenance, f"{name}/{layout.Artifact.PROVENANCE}")
    with Scratch() as scratch:
        folder = Path(scratch)
        for file in (layout.SAMPLE_GRID, layout.PER_CLASS_TABLE, layout.EVALUATION_PAGE):
            store.get_file(f"{found.folder}/{file}", folder / file)
        run.log_folder(folder, name)


def begin(plan: Plan) -> None:
    """Write down what is about to run: the config, the code, the data's class counts, the pretrained model.

    Raises:
        UsageProblem, CheckpointProblem: as `resolve_pretrained`.
    """
    plan.run.log_config(plan.experiment)
    plan.run.set_tags({layout.Tag.STEP: step_key(plan.experiment)})
    plan.run.log_code()
    data = plan.experiment.data.load(cache_folder())
    check_groups(plan.experiment.evaluation, data.train.class_counts.tolist())
    plan.run.log_json(
        {
            "classes": list(data.train.class_names),
            "train": data.train.class_counts.tolist(),
            "reference": data.reference.class_counts.tolist(),
            "train_fingerprint": data.train.fingerprint(),
            "reference_fingerprint": data.reference.fingerprint(),
        },
        layout.Artifact.DATASET,
    )
    names, shape = data.train.class_names, data.train.image_shape
    if record := resolve_pretrained(plan.experiment, plan.store, names, shape):
        plan.run.set_tags(record.tags())
        plan.run.log_json(record.model_dump(), PRETRAINED_RECORD)
