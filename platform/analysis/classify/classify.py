"""Measure whether a run's generated images help a classifier, and keep and record the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ....trainers.errors import UsageProblem
from ....trainers.integrity import seal
from ...balancing.added_images import wanted_counts
from ...balancing.arms import ArmName, measure
from ...balancing.filling import ImageSource
from ...config.balancing import BalancingConfig
from ...config.tracking import TrackingConfig
from ...runs.find_run import StoredRun, find_run
from ...runs.image_source import image_source
from ...storage.layout import CLASSIFICATION_RESULT, classification_folder
from ...storage.store import Storage
from ...tracking.tracker import open_tracker
from .result import ClassificationResult, RecordedClassification
from .settings import resolve_settings

OnPhase = Callable[[str], None]

ARMS: tuple[ArmName, ...] = ("real", "repeated", "generated")


def classify_and_record(
    root: Storage,
    tracking: str | None,
    name: str,
    overrides: Sequence[str],
    on_phase: OnPhase,
    **options: Any,
) -> RecordedClassification:
    """Classify a run, and add the result to its MLflow run if there is one.

    Args:
        tracking: MLflow's tracking URI; None: the run's.
        options: as `classify`.

    Raises:
        UsageProblem, Problem: as `classify`; or MLflow does not answer, which is found out first,
            since the work may take hours.
    """
    run = find_run(root, name)
    config = TrackingConfig(uri=tracking) if tracking else run.experiment.tracking
    tracker = open_tracker(config, root)
    result = classify(run, overrides, on_phase=on_phase, **options)
    note = None
    try:
        result.record(tracker.find(run.key))
    except UsageProblem as problem:
        note = f"not recorded in MLflow: {problem.what}"
    uri = run.store.uri_of(f"{result.folder}/{CLASSIFICATION_RESULT}")
    return RecordedClassification(result, uri, note)


def classify(
    run: StoredRun,
    overrides: Sequence[str] = (),
    *,
    per_class: int | None = None,
    fill_to: int | None = None,
    control: bool = True,
    seeds: int = 1,
    workers: int | Literal["all"] = 1,
    on_phase: OnPhase = lambda _line: None,
) -> ClassificationResult:
    """Train and test classifiers of real images, with and without generated ones.

    Args:
        per_class, fill_to: as `wanted_counts`.
        control: also train on as many copies of real images; without, a gain over the real images may be
            due to balance alone.
        seeds, workers: as `measure`.

    Raises:
        UsageProblem: impossible counts, seeds or overrides.
        DataProblem: a class has no real image to repeat; or the images are not those of the run.
        Problem: a training failed.
    """
    source = _source(run, overrides, on_phase)
    counts = wanted_counts(source.splits.train.class_counts, per_class, fill_to)
    arms = [arm for arm in ARMS if control or arm != "repeated"]
    measured = measure(source, counts, arms, seeds, workers, on_phase)
    document = {"run": run.key, **measured.document}
    folder = classification_folder(measured.content)
    run.store.write_text(f"{folder}/{CLASSIFICATION_RESULT}", json.dumps(seal(document), indent=1))
    return ClassificationResult(document, folder, measured.trained)


def _source(run: StoredRun, overrides: Sequence[str], on_phase: OnPhase) -> ImageSource:
    """Return where a run's images come from, with overrides."""
    settings = resolve_settings(run.experiment, overrides)
    unfiltered = {"balancing": BalancingConfig()}  # all arms are of all images
    experiment = run.experiment.model_copy(update={**dict(settings), **unfiltered})
    on_phase("reading the images")
    return image_source(experiment, run.store, run.checkpoint)
