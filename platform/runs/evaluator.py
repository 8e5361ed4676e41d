"""Evaluates one checkpoint, at one sampling setting or at many, from the same noise.

What was computed is kept by what it depends on (checkpoint, sampling, seed, reference, extractor,
measures), so that nothing is drawn or measured twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from ...trainers.data import Splits
from ...trainers.errors import DataProblem, UsageProblem
from ...trainers.samplers import SamplingConfig
from ...trainers.scratch import Scratch
from ..config.experiment import Experiment, with_values
from ..config.parameters import Values
from ..evaluation.bootstrap import Estimate
from ..evaluation.evaluate import Classes, check_groups, evaluate
from ..evaluation.extractors.base import Value
from ..evaluation.metrics import METRICS, memorisation
from ..evaluation.metrics.memorisation import Copies
from ..evaluation.pages.content import CurvePoint
from ..evaluation.pages.report import render_report
from ..evaluation.report import Report
from ..foundation.background import Lazy
from ..generation.loading import (
    Say,
    describe_reference,
    load_extractor,
    load_model,
    load_splits,
    load_training_images,
    reload_extractor,
)
from ..generation.pictures import collect, load_pictures, save_pictures
from ..generation.shards import (
    GeneratedShard,
    Shard,
    ShardWorker,
    by_class,
    generated_shards,
    read_features,
    read_nearest,
    real_shards,
    samples_folder,
    short_hash,
)
from ..generation.workers import ShardTask, Workers
from ..storage import layout
from ..storage.checkpoints import CheckpointStore
from ..storage.pretrained import root_of
from ..storage.store import Storage

FILES = (
    layout.EVALUATION_PAGE,
    layout.EVALUATION_REPORT,
    layout.PER_CLASS_TABLE,
    layout.REPLICATES,
    layout.SAMPLE_GRID,
    layout.SAMPLE_TILES,
)
"""Of an evaluation, besides its result."""
FORMAT = 3
"""Of an evaluation's files; raise it when a number changes its meaning."""
NO_EFFECT_ON_RESULT = {"batch_size", "keep_samples", "rank_by", "shard_images", "workers"}


@dataclass(frozen=True)
class Evaluated:
    """What was found at one sampling setting."""

    sampling: SamplingConfig
    metrics: dict[str, float]
    provenance: dict[str, Any]
    folder: str
    """In the run's folder of the store; `layout` names its files."""
    values: Values = field(default_factory=dict)
    """What a search changed to come here."""

    def estimate(self, name: str) -> Estimate | None:
        """`fid/overall` with its interval."""
        if name not in self.metrics:
            return None
        return Estimate(*(self.metrics[f"{name}{end}"] for end in ("", "_low", "_high")))


class Evaluator:
    """Of one checkpoint. Use as a context: what draws lives as long as it does.

    Args:
        experiment: says what is measured; its sampling settings are the default.
        store: the run's place in the store; `samples/` and `evaluations/` are used.
        checkpoint: its name.
        say: hears what is being done.

    Raises:
        DataProblem: the reference has other classes or images than the model.
    """

    def __init__(self, experiment: Experiment, store: Storage, checkpoint: str, say: Say) -> None:
        self.experiment, self.store, self.say = experiment, store, say
        self.root = root_of(store)
        self.manifest = CheckpointStore(store).read_manifest(checkpoint)
        splits = load_splits(experiment)
        self._check(splits)
        check_groups(experiment.evaluation, self.manifest.class_counts)
        say("preparing the feature extractor")
        self.extractor = load_extractor(experiment, splits, self.root, say)
        self.splits = splits
        self.training = Lazy(partial(load_training_images, experiment))
        maker = ShardWorker(
            self.root,
            Lazy(partial(load_model, store, checkpoint, experiment)),
            Lazy(partial(reload_extractor, experiment, self.root), self.extractor),
            Lazy(partial(load_splits, experiment), splits),
            self.training,
            experiment.evaluation.batch_size,
        )
        self.workers = Workers(maker, experiment.evaluation.workers, experiment.scaling)
        self.generated = 0
        """Images that had to be generated; 0 where all was known."""

    def __enter__(self) -> Self:
        self.workers.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.workers.__exit__(*error)

    def evaluate_at(self, values: Values | None = None) -> Evaluated:
        """One sampling setting: from the store, or drawn and measured now."""
        values = values or {}
        changed = with_values(self.experiment, values, "the points to try")
        sampling = changed.sampling.effective(changed.diffusion.timesteps)
        folder = layout.evaluation_folder(self._key(sampling))
        kept = self._known(folder) or self._measure(sampling, folder)
        return Evaluated(sampling, kept["metrics"], kept["provenance"], folder, values)

    def _known(self, folder: str) -> dict[str, Any] | None:
        """An earlier result, if all of its files are there and whole."""
        there = {name.rpartition("/")[2] for name in self.store.list(folder)}
        if not {layout.EVALUATION_RESULT, *FILES} <= there:
            return None
        try:
            kept: dict[str, Any] = json.loads(
                self.store.read_text(f"{folder}/{layout.EVALUATION_RESULT}")
            )
        except json.JSONDecodeError:
            return None
        return kept if {"metrics", "provenance"} <= kept.keys() else None

    def value(self, point: Evaluated) -> float:
        """What points are ordered by: `evaluation.rank_by`.

        Raises:
            UsageProblem: there are too few images for it.
        """
        rank_by = self.experiment.evaluation.rank_by
        if rank_by not in point.metrics:
            raise UsageProblem(
                f"{rank_by} cannot be told: too few images, or another extractor than it needs",
                "raise evaluation.images_per_class, or set another evaluation.rank_by",
            )
        return point.metrics[rank_by]

    def best(self, tried: Sequence[Evaluated]) -> Evaluated:
        """By `evaluation.rank_by`; the earliest of equals."""
        return self.experiment.evaluation.goal.best(tried, self.value)

    def select_best(self, tried: Sequence[Evaluated]) -> Evaluated:
        """The best of what was tried, its report with all of them in it; the others' images go."""
        best = self.best(tried)
        if len(tried) > 1:
            self._render(best.folder, curve(tried, best))
        self.delete_samples([point for point in tried if point.folder != best.folder])
        if not self.experiment.evaluation.keep_samples:
            self.delete_samples([best])
        return best

    def delete_samples(self, points: Sequence[Evaluated]) -> None:
        """Delete their images and features; what was found stays."""
        for folder in {self._samples(point.sampling) for point in points}:
            self.root.delete(folder)

    def _measure(self, sampling: SamplingConfig, folder: str) -> dict[str, Any]:
        config, names = self.experiment.evaluation, tuple(self.manifest.class_names)
        counts = self.manifest.class_counts
        shards = generated_shards(
            self._samples(sampling),
            sampling,
            self.experiment.seed,
            [config.images_per_class] * len(names),
            config.shard_images,
        )
        known = self.root.list(self._samples(sampling))
        new = [s for s in shards if layout.shard_images(s.stem) not in known]
        self.generated += sum(map(len, new))
        what = describe(sampling)
        reference = real_shards(self.splits.reference, config.shard_images)
        self._run("extract_features", reference, "features of real images")
        self._run("extract_features", shards, what)
        copies, about = None, self._about(sampling)
        if any(METRICS[name].needs_nearest for name in config.metrics):
            self._run("find_nearest", shards, f"{what}: held against training images")
            copies = self._copies(shards)
            about |= {
                "copies_mirrored": self.training().mirrored,
                "copies_pooled": ", ".join(names[c] for c in copies.pooled) or None,
            }
        self.say(f"{what}: measuring")
        info = self.extractor.info
        labels, indices, place = by_class(shards)
        seen = read_features(self.root, shards, info.hash, place)
        real = read_features(self.root, reference, info.hash)
        report = evaluate(
            seen,
            labels,
            real,
            self.splits.reference.labels,
            Classes(names, counts),
            info,
            config,
            about,
            None if copies is None else copies.ratio,
        )
        pictures = collect(report, self.root, shards, labels, indices, self.splits, copies)
        with Scratch() as scratch:
            local = Path(scratch)
            report.save(local)
            save_pictures(pictures, local)
            (local / layout.EVALUATION_PAGE).write_text(
                render_report(report, pictures), encoding="utf-8"
            )
            for file in sorted(local.iterdir()):
                self.store.put_file(file, f"{folder}/{file.name}")
        result = {"metrics": report.metrics(), "provenance": dict(report.provenance)}
        # last: an evaluation exists when its result does
        self.store.write_text(f"{folder}/{layout.EVALUATION_RESULT}", json.dumps(result, indent=1))
        return result

    def _copies(self, shards: Sequence[GeneratedShard]) -> Copies:
        labels, _, place = by_class(shards)
        training = self.training()
        nearest, ratio = read_nearest(self.root, shards, training, place)
        flagged = ratio < memorisation.METRIC.settings_in(self.experiment.evaluation).copy_ratio
        return Copies(labels, nearest, ratio, flagged, training.pooled)

    def _run(self, task: ShardTask, shards: Sequence[Shard], what: str) -> None:
        total = sum(map(len, shards))

        def progress(done: int) -> None:
            self.say(f"{what}: {done:,} of {total:,} images")

        progress(0)
        self.workers.run(task, shards, progress)

    def _render(self, folder: str, points: Sequence[CurvePoint]) -> None:
        with Scratch() as scratch:
            local = Path(scratch)
            for path in self.store.list(folder):
                self.store.get_file(path, local / path.rpartition("/")[2])
            report = Report.load(local)
            page = render_report(report, load_pictures(local, report), points)
            (local / layout.EVALUATION_PAGE).write_text(page, encoding="utf-8")
            self.store.put_file(
                local / layout.EVALUATION_PAGE, f"{folder}/{layout.EVALUATION_PAGE}"
            )

    def _about(self, sampling: SamplingConfig) -> dict[str, Value]:
        reference = self.splits.reference
        counts = reference.class_counts
        return {
            "model": self.experiment.name,
            "checkpoint": self.manifest.content_hash(),
            "images_seen": self.manifest.images_seen,
            "sampler": sampling.sampler,
            "steps": sampling.steps,
            "eta": sampling.eta,
            "variance": sampling.variance if sampling.sampler == "ddpm" else None,
            "omega": sampling.omega,
            "clip_x0": sampling.clip_x0,
            "weights": sampling.weights,
            "seed": self.experiment.seed,
            "train": self.splits.train.fingerprint(),
            "reference": reference.fingerprint(),
            "reference_per_class": f"{counts.min()} to {counts.max()}",
            "reference_source": describe_reference(self.experiment),
        }

    def _samples(self, sampling: SamplingConfig) -> str:
        checkpoint = self.manifest.content_hash()
        return samples_folder(self.store, checkpoint, sampling, self.experiment.seed)

    def _key(self, sampling: SamplingConfig) -> str:
        return short_hash(
            [
                FORMAT,
                self._samples(sampling).rpartition("/")[2],
                self.experiment.evaluation.model_dump(
                    mode="json", exclude=NO_EFFECT_ON_RESULT | {"reference", "features"}
                ),
                self.splits.train.fingerprint(),
                self.splits.reference.fingerprint(),
                self.extractor.info.hash,
            ]
        )

    def _check(self, splits: Splits) -> None:
        seen, now = self.manifest, splits.reference
        if (tuple(seen.class_names), seen.image_shape) != (now.class_names, now.image_shape):
            raise DataProblem(
                f"the model knows {len(seen.class_names)} classes of {seen.image_shape} images, the "
                f"data are {now.num_classes} classes of {now.image_shape}, or named otherwise",
                "restore the data that it was trained on, or train again",
            )


def curve(tried: Sequence[Evaluated], chosen: Evaluated | None = None) -> list[CurvePoint]:
    """Points to draw, by sampler, steps and omega."""
    points = [
        CurvePoint(
            sampler=point.sampling.sampler,
            steps=point.sampling.steps,
            omega=point.sampling.omega,
            values={
                name: found
                for name in point.metrics
                if not name.endswith(("_low", "_high")) and (found := point.estimate(name))
            },
            chosen=chosen is not None and point.folder == chosen.folder,
        )
        for point in tried
    ]
    return sorted(points, key=lambda p: (p.sampler, p.steps, p.omega))


def describe(sampling: SamplingConfig) -> str:
    """A setting in a few words."""
    steps = f" {sampling.steps} steps" if sampling.sampler == "ddim" else ""
    return f"{sampling.sampler}{steps}, omega {sampling.omega:g}"


def prefixed(before: str, say: Say) -> Say:
    """Says every line after some words."""
    return lambda line: say(before + line)
