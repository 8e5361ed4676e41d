"""What a balanced set is made of: a checkpoint, real images, filled classes, scores and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ....trainers.checkpoint import Manifest
from ....trainers.classification.trained import TrainedClassifier
from ....trainers.data import Splits
from ....trainers.data.groups import group_classes
from ...balancing.added_images import lacking_counts
from ...balancing.f0 import f0_key, load_f0, read_f0
from ...balancing.f0_on_worker import train_f0_on_worker
from ...balancing.filling import Counts, Filled, ImageSource
from ...balancing.filters import check_every_class_keeps_some, filter_scores
from ...balancing.scores import Scores, score
from ...compute.ray_session import ray_session
from ...evaluation.extractors.base import Value
from ...evaluation.metrics.memorisation import METRIC
from ...generation.loading import describe_reference
from ...generation.shards import short_hash
from ...runs.image_source import image_source
from ...storage.layout import datasheet_page
from .content import Datasheet, RealClass
from .counts import count_images
from .manifest import GeneratedRows, SetContent
from .result import BalanceResult, quantiles
from .sheet import make_sheet
from .subject import Subject

OnPhase = Callable[[str], None]

FORMAT = 1
"""Of a set's identity; raise it when the same settings give another set."""


@dataclass(frozen=True)
class BalanceInputs:
    """A checkpoint that generates and the real images that it was trained on."""

    subject: Subject
    """Its experiment's sampling is fixed."""
    source: ImageSource
    """What generates images."""

    @classmethod
    def read(cls, subject: Subject) -> BalanceInputs:
        """Read the checkpoint's manifest and the real images.

        Raises:
            DataProblem: they are gone, or others than the model was trained on.
        """
        source = image_source(subject.experiment, subject.run.store, subject.run.checkpoint)
        return cls(replace(subject, experiment=source.experiment), source)

    @property
    def splits(self) -> Splits:
        """The real images that the checkpoint was trained on, and the test images."""
        return self.source.splits

    @property
    def manifest(self) -> Manifest:
        """Of the checkpoint."""
        return self.source.manifest

    @property
    def real_classes(self) -> list[RealClass]:
        """The classes of the training images, by class id."""
        train, settings = self.splits.train, self.subject.experiment.evaluation.groups
        groups = group_classes(train.class_counts.tolist(), settings)
        group_of = {c: group for group, ids in groups.items() for c in ids}
        return [
            RealClass(name, group_of[c], int(train.class_counts[c]), c in self.splits.borrowed)
            for c, name in enumerate(train.class_names)
        ]

    @property
    def to(self) -> int:
        """N_t."""
        return self.subject.experiment.balancing.target(self.splits.train.class_counts)

    @property
    def copy_ratio(self) -> float:
        """Below which an image is a near copy."""
        return METRIC.settings_in(self.subject.experiment.evaluation).copy_ratio

    def counts(self) -> Counts:
        """Return how many images of each class are generated, (C,) int64.

        Raises:
            UsageProblem: none of any.
        """
        return lacking_counts(self.splits.train.class_counts, self.to, "--to")

    def filtered(
        self, filled: Filled, workers: int | Literal["all"], on_phase: OnPhase
    ) -> GeneratedRows:
        """Score the images, and return them with what is kept.

        Raises:
            UsageProblem: all images of a class are rejected.
        """
        experiment = self.subject.experiment
        on_phase("loading the classifier of the real images")
        f0 = self._f0(workers, on_phase)
        scores: Scores = score(filled, self.splits, f0, workers, on_phase)
        config, labels = experiment.balancing.filter, filled.labels
        kept = filter_scores(experiment, scores, labels)
        names = self.splits.train.class_names
        check_every_class_keeps_some(kept, scores, labels, names, config)
        return GeneratedRows(
            labels=labels,
            indices=filled.indices,
            kept=kept.mask,
            reasons=kept.reasons,
            near_copy=scores.copy_ratio < self.copy_ratio,
            pixel_distance=scores.pixel_distance,
            nearest=scores.nearest_pixels,
            feature_distance=scores.feature_distance,
            nearest_features=scores.nearest_features,
            probability=scores.probability,
            copy_ratio=scores.copy_ratio,
            copy_of=scores.copy_of,
            read=filled.read,
        )

    def _f0(self, workers: int | Literal["all"], on_phase: OnPhase) -> TrainedClassifier:
        """Return f_0; with workers it is trained on one of them, which may have a GPU that this machine lacks."""
        root, experiment = self.subject.run.store.root, self.subject.experiment
        config = experiment.effective_classification
        if workers != 1 and read_f0(root, f0_key(self.splits.train, config)) is None:
            with ray_session():
                train_f0_on_worker(root, experiment, on_phase)
        return load_f0(root, self.splits, config, on_phase)

    def identity(self, counts: Counts) -> str:
        """Return a hash of all that the set depends on but for its form."""
        experiment, splits = self.subject.experiment, self.splits
        return short_hash(
            [
                FORMAT,
                self.source.samples_folder.rpartition("/")[2],
                counts.tolist(),
                experiment.balancing.filter.model_dump(),
                experiment.effective_classification.model_dump(mode="json"),
                self.copy_ratio,
                splits.train.fingerprint(),
                splits.reference.fingerprint(),
            ]
        )

    def result(self, rows: GeneratedRows, missing: int) -> BalanceResult:
        """Return the counts of a set that is not written.

        Args:
            missing: images that were generated now.
        """
        splits = self.splits
        identity = self.identity(np.bincount(rows.labels, minlength=splits.train.num_classes))
        return BalanceResult(
            subject=self.subject,
            weights=self.manifest.content_hash(),
            identity=identity,
            to=self.to,
            counts=count_images(self.real_classes, rows),
            test_images=len(splits.reference.labels),
            image_shape=splits.train.image_shape,
            distances=quantiles(
                {
                    name: getattr(rows, name)
                    for name in (
                        "pixel_distance",
                        "feature_distance",
                        "probability",
                        "copy_ratio",
                    )
                }
            ),
            images_generated=missing,
            written=None,
            page=datasheet_page(identity),
            warnings=self._of_source(),
            note=None,
        )

    def sheet(self, rows: GeneratedRows, result: BalanceResult) -> Datasheet:
        """Return the datasheet of a set that is not written."""
        facts: dict[str, Value] = {
            "images_seen": self.manifest.images_seen,
            "test images": describe_reference(self.subject.experiment.for_classifiers, self.splits),
        }
        return make_sheet(
            self.subject,
            self.splits,
            rows,
            self.real_classes,
            self.to,
            result.weights,
            self._of_source(),
            facts,
        )

    def content(self, rows: GeneratedRows, result: BalanceResult) -> SetContent:
        """Return what is written."""
        experiment = self.subject.experiment
        about = {
            "title": f"of {result.subject.name}, up to {result.to}, {experiment.balancing.filter.label}",
            "model": result.subject.name,
            "weights": result.weights,
            "to": result.to,
            "filter": experiment.balancing.filter.model_dump(),
            "seed": experiment.seed,
            "images": result.document()["images"],
        }
        return SetContent(
            self.splits,
            rows,
            result.subject.name,
            result.weights,
            experiment.sampling.model_dump_json(),
            experiment.seed,
            result.identity,
            about,
        )

    def _of_source(self) -> tuple[str, ...]:
        """Return what is to be known of test images that are none, and of real images that are not."""
        lines = []
        if self.splits.validation is not None:
            lines.append(
                "its test images are training images that data.validation set apart: no test image of its "
                "source is in the set"
            )
        if self.subject.experiment.data.source == "balanced":
            lines.append(
                "the model was trained on a balanced set: generated images of that set count as real ones here"
            )
        return tuple(lines)
