"""Does training on a run's generated images help a classifier? (CBDM table 4, DiffuLT)

Three arms of classifiers, each trained with several seeds:

- `real`: on the real long-tailed images.
- `real_repeated`, the control: on these, and on copies of them.
- `real_and_generated`: on these, and on as many generated ones of each class.

Added images balance the classes and lengthen the training, whatever they show. The control gains
that much too, so that what generated images gain beyond it is theirs.

What was trained is kept by what it depends on, at the store's top, so that runs on the same data
share the arms that have no generated images:

    classifiers/<hash>.json                      one trained classifier
    <run>/samples/<hash>/                        generated images, in shards
    <run>/classification/<hash>/result.json      what `classify` found
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....trainers.checkpoint import Manifest
from ....trainers.classification import ClassificationConfig
from ....trainers.config import Config
from ....trainers.data import PackedImages, Splits
from ....trainers.errors import DataProblem, UsageProblem
from ....trainers.samplers import SamplingConfig
from ...compute.ray_session import ray_session
from ...config.experiment import Experiment, ScalingConfig, TrackingConfig
from ...config.layers import Layer, parse_override, resolve
from ...evaluation.config import EvaluationConfig
from ...evaluation.groups import group_classes
from ...foundation.background import Lazy
from ...generation.loading import load_model, load_splits
from ...generation.shards import (
    ShardSampler,
    by_class,
    generated_shards,
    samples_folder,
    short_hash,
)
from ...generation.workers import Workers
from ...runs.find_run import StoredRun, find_run
from ...storage.checkpoints import CheckpointStore
from ...storage.errors import MissingObject
from ...storage.pretrained import root_of
from ...storage.store import Storage
from ...tracking.mlflow_runs import Run, Tracker
from .summary import ARMS, DIFFERENCES, Arm, summarise
from .training import ClassifierRun, ClassifierTraining, train_locally, train_on_ray

Say = Callable[[str], None]
Counts = NDArray[np.int64]
FORMAT = 1
"""Of a trained classifier's file; raise it when the recipe or a figure changes its meaning."""
CHANGEABLE = ("classification.", "sampling.", "evaluation.groups.", "scaling.")
ONLY_WITH_ADDED = {"epoch_of", "generated_weight"}


class Settings(Config):
    """What may be overridden, with the run's own values below."""

    classification: ClassificationConfig = ClassificationConfig()
    sampling: SamplingConfig
    evaluation: EvaluationConfig
    scaling: ScalingConfig


@dataclass(frozen=True)
class Addition:
    """Images that an arm has beside the real ones."""

    known_by: list[Any]
    """What they depend on beside the real ones, as JSON types."""
    make: Callable[[], PackedImages]


@dataclass(frozen=True)
class Classified:
    """What was found; `document` is the saved JSON."""

    document: dict[str, Any]
    folder: str
    """In the run's store; has result.json."""
    trained: int
    """Classifiers that had to be trained; 0 where all was known."""

    def metrics(self) -> dict[str, float]:
        """Flat, for tracking: `classification/real/accuracy/few`, `.../few_low`, ..."""
        parts = {arm: found["figures"] for arm, found in self.document["arms"].items()}
        for name in DIFFERENCES:
            parts[name] = self.document.get(name, {})
        flat = {}
        for part, figures in parts.items():
            for name, found in figures.items():
                for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
                    if found[key] is not None:
                        flat[f"classification/{part}/{name}{end}"] = found[key]
        return flat

    def record(self, run: Run) -> None:
        """Add it to the run's MLflow run; the last of several is what its metrics show."""
        run.log_json(self.document, f"{self.folder}.json")
        run.log_metrics(self.metrics(), self.document["images_seen"])
        run.flush()


@dataclass(frozen=True)
class RecordedClassification:
    """A result, and where it is kept."""

    result: Classified
    uri: str
    """URI of the document in the store."""
    note: str | None
    """Why it is not in MLflow; None where it is."""


def settings_of(experiment: Experiment, overrides: Sequence[str]) -> Settings:
    """The run's settings with overrides; images are mirrored if the training mirrored them.

    Raises:
        UsageProblem: an unknown key, a wrong value, or a key of the finished training.
    """
    layers = [parse_override(text) for text in overrides]
    for layer in layers:
        for key in layer.values:
            if not key.startswith(CHANGEABLE):
                raise UsageProblem(
                    f"{key} cannot be changed here",
                    "override classification.*, sampling.*, evaluation.groups.* or scaling.*",
                )
    run = experiment.model_dump(mode="json", include={"sampling", "evaluation", "scaling"})
    flip = experiment.data.flip or experiment.augmentation.flips
    base = Layer("the run", {**run, "classification.flip": flip})
    return resolve(Settings, [base, *layers]).value


def wanted_counts(train_counts: Counts, per_class: int | None, fill_to: int | None) -> Counts:
    """How many images of each class are generated, (C,) int64.

    Args:
        per_class: as many of every class; CBDM has 500 for each of CIFAR's 100.
        fill_to: as many as a class lacks of this number of real images, DiffuLT's N_t.

    Raises:
        UsageProblem: both or neither, less than 1, or nothing to generate.
    """
    if (per_class is None) == (fill_to is None):
        raise UsageProblem(
            "how many images to generate is not clear",
            "give one of --per-class N (as many of every class) and --fill-to N (what a class lacks)",
        )
    name, number = ("--per-class", per_class) if fill_to is None else ("--fill-to", fill_to)
    assert number is not None
    if number < 1:
        raise UsageProblem(f"{name} is {number}", "give at least 1")
    if fill_to is None:
        return np.full(len(train_counts), number, dtype=np.int64)
    lacking = np.maximum(0, number - train_counts)
    if not lacking.any():
        raise UsageProblem(
            f"--fill-to is {number}, and every class has as many real images already",
            f"give more than {train_counts.min()}",
        )
    return lacking


def repetition(real: PackedImages, counts: Counts) -> Addition | None:
    """`counts[c]` copies of class c's own images, which are taken in order, again and again.

    None where nothing is to be added, which is the real arm.

    Args:
        counts: (C,) int64.
    """
    if not counts.any():
        return None

    def make() -> PackedImages:
        if (without := (real.class_counts == 0) & (counts > 0)).any():
            raise DataProblem(
                f"class {real.class_names[int(without.argmax())]} has no real image to repeat",
                "compare without repeated images: --no-control",
            )
        rows = [np.resize(np.flatnonzero(real.labels == c), n) for c, n in enumerate(counts)]
        return real.select(np.concatenate(rows))

    return Addition(["repeated", counts.tolist()], make)


def classify(
    place: StoredRun,
    overrides: Sequence[str] = (),
    *,
    per_class: int | None = None,
    fill_to: int | None = None,
    seeds: int = 1,
    workers: int = 1,
    arms: Sequence[Arm] = ARMS,
    phase: Say = lambda _line: None,
) -> Classified:
    """Train and test the arms with seeds 0, 1, ...; what is in the store is not made again.

    The generated images are the same for every seed, as the papers have them: the intervals cover
    the classifier's training, not another draw of images or another diffusion model. Copies are
    trained on as generated images are: as many of each class, of the same weight, for as long.

    Args:
        per_class, fill_to: as `wanted_counts`; not needed for the real arm alone.
        workers: 1 trains in this process; more on Ray, with the resources of `scaling.*`.
        arms: which to train; without `real_repeated`, a gain over `real` may be that of balance.

    Raises:
        UsageProblem: counts, seeds or overrides that cannot be.
        DataProblem: a class that has no real image to repeat.
        Problem: what a training has to say.
    """
    if seeds < 1:
        raise UsageProblem(
            f"--seeds is {seeds}", "give at least 1; 5 tell small effects from noise"
        )
    if workers < 1:
        raise UsageProblem(f"--workers is {workers}", "give at least 1")
    settings = settings_of(place.experiment, overrides)
    experiment = place.experiment.model_copy(
        update={
            "sampling": settings.sampling.effective(place.experiment.diffusion.timesteps),
            "evaluation": settings.evaluation,
            "scaling": settings.scaling,
        }
    )
    phase("reading the images")
    splits = load_splits(experiment)
    counts = np.zeros(splits.train.num_classes, dtype=np.int64)
    if set(arms) != {"real"}:
        counts = wanted_counts(splits.train.class_counts, per_class, fill_to)
    groups = group_classes(splits.train.class_counts.tolist(), settings.evaluation.groups)
    manifest = CheckpointStore(place.store).read_manifest(place.checkpoint)
    samples = samples_folder(
        place.store, manifest.content_hash(), experiment.sampling, experiment.seed
    )
    added: dict[Arm, Addition | None] = {
        "real": None,
        "real_repeated": repetition(splits.train, counts),
        "real_and_generated": Addition(
            [samples.rpartition("/")[2], counts.tolist()],
            partial(draw, place, experiment, manifest, samples, counts, workers, phase),
        ),
    }
    jobs = [
        ClassifierRun(arm, seed, _key(seed, splits, groups, settings.classification, added[arm]))
        for seed in range(seeds)
        for arm in arms
    ]
    folder = f"classification/{short_hash([job.key for job in jobs])}"
    root = root_of(place.store)
    try:
        return Classified(json.loads(place.store.read_text(f"{folder}/result.json")), folder, 0)
    except MissingObject:
        pass
    known = root.list("classifiers")
    found = {job: json.loads(root.read_text(job.file)) for job in jobs if job.file in known}
    new = [job for job in jobs if job not in found]
    with ray_session() if workers > 1 and new else nullcontext():
        extra = {
            arm: addition.make()
            for arm, addition in added.items()
            if addition and any(job.arm == arm for job in new)
        }
        task = ClassifierTraining(groups, settings.classification, settings.scaling.cpus_per_worker)
        results = (
            train_locally(task, splits, extra, new, phase)
            if workers == 1
            else train_on_ray(task, splits, extra, new, workers, settings.scaling, phase)
        )
        with closing(results):
            for job, outcome in results:
                root.write_text(job.file, json.dumps(outcome))
                found[job] = outcome

    def number(arm: Arm) -> list[int]:
        return (counts if arm in arms else 0 * counts).tolist()

    document = {
        "format": FORMAT,
        "run": place.key,
        "checkpoint": place.checkpoint,
        "images_seen": manifest.images_seen,
        "classification": settings.classification.model_dump(mode="json"),
        "sampling": experiment.sampling.model_dump(mode="json")
        if "real_and_generated" in arms
        else None,
        "groups": groups,
        "images": {
            "real": splits.train.class_counts.tolist(),
            "generated": number("real_and_generated"),
            "repeated": number("real_repeated"),
            "test": splits.reference.class_counts.tolist(),
        },
        "seeds": list(range(seeds)),
        **summarise(
            {arm: [found[job] for job in jobs if job.arm == arm] for arm in arms},
            groups,
            splits.reference.class_counts,
            settings.evaluation.confidence,
        ),
    }
    place.store.write_text(f"{folder}/result.json", json.dumps(document, indent=1))
    return Classified(document, folder, len(new))


def classify_and_record(
    root: Storage,
    tracking: str | None,
    name: str,
    overrides: Sequence[str],
    phase: Say,
    **options: Any,
) -> RecordedClassification:
    """Classify a run, and add the result to its MLflow run if MLflow knows it.

    Args:
        tracking: MLflow's tracking URI; None: the run's.
        options: as `classify`.

    Raises:
        UsageProblem, Problem: as `classify`; or MLflow does not answer, which is checked first, since
            the work may take hours.
    """
    run = find_run(root, name)
    config = TrackingConfig(uri=tracking) if tracking else run.experiment.tracking
    tracker = Tracker(config, root)
    result = classify(run, overrides, phase=phase, **options)
    note = None
    try:
        result.record(tracker.find(run.key))
    except UsageProblem as problem:
        note = f"not recorded in MLflow: {problem.what}"
    return RecordedClassification(result, run.store.uri_of(f"{result.folder}/result.json"), note)


def draw(
    place: StoredRun,
    experiment: Experiment,
    manifest: Manifest,
    samples: str,
    counts: Counts,
    workers: int,
    phase: Say,
) -> PackedImages:
    """`counts[c]` images of every class c, class by class; from the store where they are there.

    Args:
        experiment: the run's, with the sampling to draw by.
        samples: their folder, from the store's top.
    """
    sampler = ShardSampler(
        root_of(place.store),
        Lazy(partial(load_model, place.store, place.checkpoint, experiment)),
    )
    shards = generated_shards(
        samples,
        experiment.sampling,
        experiment.seed,
        counts.tolist(),
        experiment.evaluation.shard_images,
    )
    total = int(counts.sum())
    with Workers(sampler, workers, experiment.scaling) as makers:
        makers.run("generate", shards, lambda done: phase(f"drawing images: {done:,} of {total:,}"))
    labels, _, rows = by_class(shards)
    images, done = np.empty((total, *manifest.image_shape), np.uint8), 0
    for shard in shards:
        images[rows[done : (done := done + len(shard))]] = sampler.generate(shard)
    return PackedImages(images, labels, tuple(manifest.class_names))


def _key(
    seed: int,
    splits: Splits,
    groups: Mapping[str, Sequence[int]],
    config: ClassificationConfig,
    added: Addition | None,
) -> str:
    return short_hash(
        [
            FORMAT,
            seed,
            splits.train.fingerprint(),
            splits.reference.fingerprint(),
            groups,
            config.model_dump(mode="json", exclude=None if added else ONLY_WITH_ADDED),
            added and added.known_by,
        ]
    )
