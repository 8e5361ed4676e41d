"""MLflow runs made again, after the database was lost, from what the store holds of trainings.

The store has the config and the images seen (in a checkpoint's manifest), the model that a run started
from, and its evaluations. Curves of losses, system metrics and code are in MLflow alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...trainers.checkpoint import Manifest
from ...trainers.errors import CheckpointProblem
from ...trainers.integrity import Altered
from ...trainers.scratch import Scratch
from ..config.experiment import Experiment, read_experiment
from ..storage import layout
from ..storage.checkpoints import CheckpointStore
from ..storage.pretrained import read_pretrained_record
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run
from ..tracking.tracker import Tracker
from .evaluation_files import EvaluationFiles
from .run_note import note_of_run
from .speed import step_key

UNFINISHED = "unfinished"
"""In the tag of a run that is being rebuilt, so that a rebuilding that was ended goes on with it."""

OnNote = Callable[[str], None]


@dataclass(frozen=True)
class LostRun:
    """A training whose MLflow run is to be made again."""

    address: layout.RunAddress
    name: str
    """Shown by MLflow."""
    tags: Mapping[str, str]
    parent: str | None = None
    """Id of the parent's MLflow run."""
    experiment: Experiment | None = None
    """Where there is no checkpoint to read it from."""
    evaluation: str | None = None
    """Folder of the evaluation that it was logged with; None: the one with the experiment's settings."""
    status: str | None = None
    """None: FINISHED if it was trained to the end and evaluated, else KILLED."""

    @property
    def is_alone(self) -> bool:
        """Whether it belongs to no sweep."""
        return self.tags[layout.Tag.KIND] == layout.KIND_RUN


def is_missing(tracker: Tracker, key: str) -> bool:
    """Return whether MLflow has no run of this key, or one whose rebuilding was ended.

    One that was removed (`whipray runs rm`, MLflow's pages) is not missing.
    """
    tags = tracker.tags_of(key)
    if tags is None:
        return not tracker.was_deleted(key)
    return tags.get(layout.Tag.REBUILT) == UNFINISHED


def begin_rebuilding(tracker: Tracker, lost: LostRun) -> Run:
    """Make the MLflow run, marked as unfinished."""
    tags = {**lost.tags, layout.Tag.REBUILT: UNFINISHED}
    return tracker.run(lost.address.key, lost.name, tags, lost.parent)


def end_rebuilding(run: Run) -> None:
    """Mark the MLflow run as rebuilt, now."""
    run.set_tags({layout.Tag.REBUILT: datetime.now(UTC).isoformat(" ", "seconds")})


def rebuild_run(tracker: Tracker, root: Storage, lost: LostRun, on_note: OnNote) -> None:
    """Make a training's MLflow run, with all that the store has of it.

    Args:
        on_note: takes a line about what is damaged and therefore left out.

    Raises:
        CheckpointProblem: neither a checkpoint nor `lost` holds its experiment.
    """
    store = root.child(lost.address.folder)
    manifest = _newest_manifest(store)
    experiment = lost.experiment
    if manifest is not None:
        experiment = read_experiment(manifest.config, store.uri)
    if experiment is None:
        raise CheckpointProblem(
            f"{store.uri}: no checkpoint can be read, so its config is not known",
            "restore the folder from a copy",
        )
    run = begin_rebuilding(tracker, lost)
    run.log_config(experiment)
    run.set_tags({layout.Tag.STEP: step_key(experiment), layout.Tag.STORE: store.uri})
    if record := read_pretrained_record(store):
        run.set_tags(record.tags())
        run.log_json(record.model_dump(), layout.Artifact.PRETRAINED)
    evaluated = False
    if manifest is not None:
        counts = {"classes": manifest.class_names, "train": manifest.class_counts}
        run.log_json(counts, layout.Artifact.DATASET)
        with Scratch() as scratch:
            files = EvaluationFiles(store, Path(scratch), on_note)
            evaluated = _log_evaluations(run, files, lost, experiment, manifest, on_note)
    end_rebuilding(run)
    run.finish(lost.status or _status(lost, experiment, manifest, evaluated))


def _newest_manifest(store: Storage) -> Manifest | None:
    """Return the manifest of the newest checkpoint that has one that can be read."""
    checkpoints = CheckpointStore(store)
    for name in reversed(checkpoints.names()):
        try:
            return checkpoints.read_manifest(name)
        except CheckpointProblem:
            continue
    return None


def _log_evaluations(
    run: Run,
    files: EvaluationFiles,
    lost: LostRun,
    experiment: Experiment,
    manifest: Manifest,
    on_note: OnNote,
) -> bool:
    """Log a training's evaluations; return whether its own, with its metrics, is among them."""
    results = {}
    for folder in layout.evaluations_in(files.store.list(layout.EVALUATIONS)):
        try:
            result = files.read_whole(folder)
        except Altered as damage:
            on_note(f"{files.store.uri_of(folder)}/{damage}: damaged, so it is left out")
            continue
        if result is not None:
            results[folder] = result
    best = lost.evaluation or _own_evaluation(results, experiment, manifest)
    for folder, result in results.items():
        if folder == best:
            files.log_best(run, folder, result["metrics"], result["provenance"], result["warnings"])
            images = {"train": manifest.class_counts}
            run.set_note(note_of_run(run, files.store, experiment, images, result["metrics"]))
        elif lost.is_alone:  # a trial's others are of its search, and were never logged
            files.log_to(run, folder, result["provenance"], result["warnings"], folder)
    return best in results


def _own_evaluation(
    results: Mapping[str, Mapping[str, Any]], experiment: Experiment, manifest: Manifest
) -> str | None:
    """Return the evaluation that `whipray train` made: of the last checkpoint, with its settings.

    Several differ in their metrics; `whipray evaluate` computes all, a training never more.
    """
    sampling = experiment.effective_sampling
    generated = experiment.evaluation.images_per_class * len(manifest.class_names)
    wanted = {
        "checkpoint": manifest.content_hash(),
        "n_generated": generated,
        "seed": experiment.seed,
        **sampling.facts(),
    }
    own = [
        folder
        for folder, result in results.items()
        if all(result["provenance"].get(key) == value for key, value in wanted.items())
    ]
    return min(own, key=lambda folder: (len(results[folder]["metrics"]), folder), default=None)


def _status(
    lost: LostRun, experiment: Experiment, manifest: Manifest | None, evaluated: bool
) -> str:
    trained = manifest is not None and manifest.images_seen >= experiment.training.images
    is_pretraining = lost.tags[layout.Tag.KIND] == layout.PRETRAIN
    return "FINISHED" if trained and (evaluated or is_pretraining) else "KILLED"
