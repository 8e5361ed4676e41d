"""Measure whether a run's generated images help a classifier (CBDM table 4, DiffuLT).

There are three arms of classifiers, each trained with several seeds:

- `real`: on the real long-tailed images.
- `real_repeated`, the control: also on copies of them.
- `real_and_generated`: also on as many generated images of each class.

Added images balance the classes and lengthen the training, whatever they show. The control gains
that much too, so only a gain over the control is due to the content of the generated images.

A trained classifier is stored under a hash of all that it depends on, at the store's top: runs on
the same data share the arms that have no generated images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ....trainers.checkpoint import Manifest
from ....trainers.data import Splits
from ....trainers.data.groups import group_classes
from ....trainers.data.report import listed, shown
from ....trainers.errors import UsageProblem
from ....trainers.integrity import Altered, seal, unseal
from ...balancing.added_images import AddedImages, repeat_real_images, wanted_counts
from ...balancing.classifiers import (
    ClassifierRun,
    ClassifierTraining,
    Outcome,
    train_locally,
    train_on_ray,
)
from ...balancing.filling import Counts, ImageSource
from ...balancing.summary import ARMS, Arm, summarise
from ...compute.ray_session import ray_session
from ...config.experiment import Experiment
from ...config.tracking import TrackingConfig
from ...generation.loading import balanced, load_splits
from ...generation.shards import short_hash
from ...runs.evaluation_inputs import check_data
from ...runs.find_run import StoredRun, find_run
from ...runs.resolve_guide import fixed_sampling
from ...storage.checkpoints import CheckpointStore
from ...storage.errors import MissingObject
from ...storage.layout import CLASSIFICATION_RESULT, CLASSIFIERS, classification_folder
from ...storage.store import Storage
from ...tracking.tracker import open_tracker
from .result import ClassificationResult, RecordedClassification
from .settings import Settings, resolve_settings

OnPhase = Callable[[str], None]

FORMAT = 3
"""Of a classifier's outcome and of the document; raise it when a value changes its meaning."""
ONLY_WITH_ADDED = {"epoch_of", "generated_weight"}
"""Settings that have no effect where no images are added."""


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
    seeds: int = 1,
    workers: int = 1,
    arms: Sequence[Arm] = ARMS,
    on_phase: OnPhase = lambda _line: None,
) -> ClassificationResult:
    """Train and test the arms with seeds 0, 1, ...; reuse what is in the store already.

    The generated images are the same for every seed, as in the papers: the intervals cover the
    classifier's training, not other generated images or another diffusion model. Copies are
    trained on like generated images: as many of each class, with the same weight, for as long.

    Args:
        per_class, fill_to: as `wanted_counts`; not needed for the arm `real` alone.
        workers: 1 trains in this process, more on Ray, each with the resources of `scaling.*`.
        arms: the arms to train; without `real_repeated`, a gain over `real` may be due to balance
            alone.

    Raises:
        UsageProblem: impossible counts, seeds or overrides.
        DataProblem: a class has no real image to repeat.
        Problem: a training failed.
    """
    for option, value in (("--seeds", seeds), ("--workers", workers)):
        if value < 1:
            raise UsageProblem(f"{option} is {value}", "give at least 1")
    settings = resolve_settings(run.experiment, overrides)
    on_phase("reading the images")
    inputs = _Inputs.read(run, settings)
    counts = np.zeros(inputs.splits.train.num_classes, dtype=np.int64)
    if set(arms) != {"real"}:
        counts = wanted_counts(inputs.splits.train.class_counts, per_class, fill_to)
    added = inputs.added_images(counts, workers, on_phase)
    classifiers = [
        ClassifierRun(arm, seed, inputs.key(seed, added[arm]))
        for seed in range(seeds)
        for arm in arms
    ]
    folder = classification_folder(short_hash([each.key for each in classifiers]))
    file = f"{folder}/{CLASSIFICATION_RESULT}"
    try:
        return ClassificationResult(unseal(run.store.read_text(file)), folder, 0)
    except MissingObject:
        pass
    except Altered:
        on_phase(f"{run.store.uri_of(file)} is damaged: making it again")
    outcomes, trained = _train(inputs, classifiers, added, workers, on_phase)
    by_arm = {arm: [outcomes[each] for each in classifiers if each.arm == arm] for arm in arms}
    document = {**inputs.facts(counts, arms, seeds), **inputs.summarise(by_arm)}
    run.store.write_text(file, json.dumps(seal(document), indent=1))
    return ClassificationResult(document, folder, trained)


@dataclass(frozen=True)
class _Inputs:
    """The run, its images and the settings that a classification is computed from."""

    run: StoredRun
    settings: Settings
    experiment: Experiment
    """The run's, with the settings."""
    manifest: Manifest
    splits: Splits
    groups: Mapping[str, Sequence[int]]

    @classmethod
    def read(cls, run: StoredRun, settings: Settings) -> _Inputs:
        """Read the run's checkpoint manifest and real images."""
        update = {
            "sampling": settings.sampling,
            "evaluation": settings.evaluation,
            "scaling": settings.scaling,
        }
        experiment = run.experiment.model_copy(update=update)
        sampling = fixed_sampling(experiment, run.store, run.checkpoint)
        experiment = experiment.model_copy(update={"sampling": sampling})
        splits = load_splits(experiment)
        _check_unseen(splits)
        splits = replace(splits, reference=balanced(splits.reference))
        groups = group_classes(splits.train.class_counts.tolist(), settings.evaluation.groups)
        manifest = CheckpointStore(run.store).read_manifest(run.checkpoint)
        check_data(manifest, splits)
        return cls(run, settings, experiment, manifest, splits, groups)

    def added_images(
        self, counts: Counts, workers: int, on_phase: OnPhase
    ) -> dict[Arm, AddedImages | None]:
        """Return the images that each arm adds to the real ones; none is made yet."""
        source = ImageSource(
            self.run.store, self.run.checkpoint, self.experiment, self.manifest, self.splits
        )
        return {
            "real": None,
            "real_repeated": repeat_real_images(self.splits.train, counts),
            "real_and_generated": AddedImages(
                [source.samples_folder.rpartition("/")[2], counts.tolist()],
                lambda: source.fill(counts, workers, on_phase).read_all(),
            ),
        }

    def key(self, seed: int, added: AddedImages | None) -> str:
        """Return a hash of all that a classifier depends on."""
        without_effect = None if added else ONLY_WITH_ADDED
        return short_hash(
            [
                FORMAT,
                seed,
                self.splits.train.fingerprint(),
                self.splits.reference.fingerprint(),
                self.groups,
                self.settings.classification.model_dump(mode="json", exclude=without_effect),
                added and added.depends_on,
            ]
        )

    def facts(self, counts: Counts, arms: Sequence[Arm], seeds: int) -> dict[str, Any]:
        """Return what was trained on what, as JSON types."""

        def count_of(arm: Arm) -> list[int]:
            counted: list[int] = (counts if arm in arms else 0 * counts).tolist()
            return counted

        sampling = self.experiment.sampling.model_dump(mode="json")
        return {
            "format": FORMAT,
            "run": self.run.key,
            "checkpoint": self.run.checkpoint,
            "images_seen": self.manifest.images_seen,
            "classification": self.settings.classification.model_dump(mode="json"),
            "sampling": sampling if "real_and_generated" in arms else None,
            "groups": self.groups,
            "images": {
                "real": self.splits.train.class_counts.tolist(),
                "generated": count_of("real_and_generated"),
                "repeated": count_of("real_repeated"),
                "test": self.splits.reference.class_counts.tolist(),
            },
            "seeds": list(range(seeds)),
        }

    def summarise(self, outcomes: Mapping[Arm, Sequence[Outcome]]) -> dict[str, Any]:
        """Return means and intervals of each arm, as JSON types."""
        return summarise(
            outcomes,
            self.groups,
            self.splits.reference.class_counts,
            self.settings.evaluation.confidence,
        )


def _check_unseen(splits: Splits) -> None:
    """Check that no class would be tested on images that it was trained on.

    Raises:
        UsageProblem: naming the classes.
    """
    if splits.borrowed:
        names = listed([shown(splits.train.class_names[c]) for c in splits.borrowed])
        raise UsageProblem(
            f"classifiers cannot be tested on {names}: too few images to hold some out, and all are trained on",
            "add images of these classes, or set evaluation.reference to others of all classes",
        )


def _train(
    inputs: _Inputs,
    classifiers: Sequence[ClassifierRun],
    added: Mapping[Arm, AddedImages | None],
    workers: int,
    on_phase: OnPhase,
) -> tuple[dict[ClassifierRun, Outcome], int]:
    """Train the classifiers that are not in the store; return all outcomes and the number trained."""
    root, settings = inputs.run.store.root, inputs.settings
    stored = root.list(CLASSIFIERS)
    outcomes: dict[ClassifierRun, Outcome] = {}
    for each in classifiers:
        if each.file in stored:
            try:
                outcomes[each] = unseal(root.read_text(each.file))
            except Altered:
                on_phase(f"{root.uri_of(each.file)} is damaged: training this classifier again")
    new = [each for each in classifiers if each not in outcomes]
    with ray_session() if workers > 1 and new else nullcontext():
        images = {
            arm: addition.make()
            for arm, addition in added.items()
            if addition and any(each.arm == arm for each in new)
        }
        training = ClassifierTraining(
            inputs.groups, settings.classification, settings.scaling.cpus_per_worker
        )
        results = (
            train_locally(training, inputs.splits, images, new, on_phase)
            if workers == 1
            else train_on_ray(
                training, inputs.splits, images, new, workers, settings.scaling, on_phase
            )
        )
        with closing(results):
            for classifier, outcome in results:
                root.write_text(classifier.file, json.dumps(seal(outcome)))
                outcomes[classifier] = outcome
    return outcomes, len(new)
