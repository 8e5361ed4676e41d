"""What the steps of a pipeline have in common: the images, and what earlier steps put into the store."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ....trainers.checkpoint import Manifest
from ....trainers.classification.trained import TrainedClassifier
from ....trainers.data import Splits
from ....trainers.data.decoding import UNREAD
from ....trainers.guidance import Autoguidance
from ....trainers.integrity import Altered, unseal
from ...balancing.added_images import lacking_counts
from ...balancing.arms import Bench, Measured, OnPhase, added_images, measure
from ...balancing.candidates import Candidates
from ...balancing.classifiers import ClassifierRun
from ...balancing.f0 import f0_key, read_f0
from ...balancing.filling import Counts, Filled, ImageSource
from ...balancing.filters import check_every_class_keeps_some, filter_scores
from ...balancing.scores import Scores, score, score_files
from ...evaluation.arrays import Bools
from ...generation.loading import load_splits
from ...runs.image_source import image_source
from ...storage import layout
from ...storage.checkpoints import CheckpointStore
from .order import Order
from .work import WorkOf


class Materials:
    """The images of one order, and what its steps made of them.

    Args:
        order: what is asked for.
        dry_run: write nothing.
    """

    def __init__(self, order: Order, dry_run: bool = False) -> None:
        self.order, self.dry_run = order, dry_run
        self._f0: TrainedClassifier | None = None

    @cached_property
    def class_counts(self) -> Counts:
        """Training images of each class, (C,) int64; no image is decoded for it."""
        if "splits" in vars(self):
            return self.splits.train.class_counts
        return self.order.experiment.data.load(UNREAD).train.class_counts

    @cached_property
    def splits(self) -> Splits:
        """The real images; those to test on are about as many of each class."""
        return load_splits(self.order.experiment.for_classifiers, self.order.root)

    @cached_property
    def work(self) -> WorkOf:
        """The work of the order's networks."""
        experiment = self.order.experiment
        return WorkOf(experiment, experiment.data.image_shape, len(self.class_counts))

    @cached_property
    def counts(self) -> Counts:
        """Images of each class to generate, (C,) int64.

        Raises:
            UsageProblem: N_t is not above the count of any class.
        """
        return lacking_counts(self.class_counts, self.to)

    @property
    def to(self) -> int:
        """N_t."""
        return self.order.experiment.balancing.target(self.class_counts)

    def checkpoint(self) -> tuple[str, Manifest] | None:
        """Return the run's last checkpoint and its manifest; None before the first one."""
        checkpoints = CheckpointStore(self.order.store)
        name = checkpoints.latest()
        return None if name is None else (name, checkpoints.read_manifest(name))

    def is_trained(self) -> bool:
        """Return whether the diffusion model has seen all images that it is to see."""
        saved = self.checkpoint()
        return saved is not None and saved[1].images_seen >= self.order.experiment.training.images

    @cached_property
    def source(self) -> ImageSource:
        """The trained model with all that decides its images.

        Raises:
            DataProblem, UsageProblem, CheckpointProblem: as `image_source`.
        """
        order, saved = self.order, self.checkpoint()
        assert saved is not None, "the model is not trained yet"
        return image_source(order.experiment, order.store, saved[0], self.splits)

    def has_source(self) -> bool:
        """Return whether `source` can be asked for; a dry run puts no guide into the store."""
        guidance = self.order.experiment.effective_sampling.guidance
        unknown_guide = isinstance(guidance, Autoguidance) and not guidance.content
        return self.is_trained() and not (self.dry_run and unknown_guide)

    @cached_property
    def filled(self) -> Filled:
        """The generated images; they may have to be made yet."""
        return Filled(self.source, tuple(self.source.shards(self.counts)))

    def knows_pixels(self) -> bool:
        """Return whether the images may be read; a dry run decodes none for a model that is not trained."""
        return not self.dry_run or self.is_trained()

    def has_f0(self) -> bool:
        """Return whether f_0 is in the store."""
        return self.f0 is not None

    @property
    def f0(self) -> TrainedClassifier | None:
        """f_0 of the store; None where there is none."""
        if self._f0 is None:
            config = self.order.experiment.effective_classification
            self._f0 = read_f0(self.order.root, f0_key(self.splits.train, config))
        return self._f0

    def scored(self) -> int:
        """Return how many of the generated images have scores."""
        f0, filled = self.f0, self.filled
        assert f0 is not None
        files = score_files(filled, self.splits.train, f0)
        stored = self.order.root.list(self.source.samples_folder)
        each = zip(filled.shards, files, strict=True)
        return sum(len(shard) for shard, file in each if file in stored)

    def score(
        self, workers: int | Literal["all"] = 1, on_phase: OnPhase = lambda _line: None
    ) -> Scores:
        """Return the scores of the generated images; those that are missing are computed."""
        f0 = self.f0
        assert f0 is not None, "f_0 is not trained yet"
        return score(self.filled, self.splits, f0, workers, on_phase)

    def knows_arms(self) -> bool:
        """Return whether it is known which images each arm adds."""
        if not self.has_source():
            return False
        if not self.order.experiment.balancing.filter.is_set:
            return True
        return self.has_f0() and self.scored() == int(self.counts.sum())

    @cached_property
    def mask(self) -> Bools:
        """(N,) the generated images that are kept.

        Raises:
            UsageProblem: a class of which the filter rejects all, unless a search chose the filter.
        """
        experiment, labels = self.source.experiment, self.filled.labels
        config = experiment.balancing.filter
        if not config.is_set:
            return np.ones(len(labels), np.bool_)
        scores = self.score()
        kept = filter_scores(experiment, scores, labels)
        if self.order.chosen is None:  # a search measures such a point: real images alone are left
            names = self.splits.train.class_names
            check_every_class_keeps_some(kept, scores, labels, names, config)
        return kept.mask

    def evaluation(self) -> dict[str, Any] | None:
        """Return an evaluation of images that this model generates as asked for; None where there is none.

        Of several evaluations, that of as many images as the experiment says.
        """
        source, store = self.source, self.order.store
        sampling, evaluation = source.experiment.sampling, source.experiment.evaluation
        about = {
            "checkpoint": source.manifest.content_hash(),
            "seed": source.experiment.seed,
            "sampler_settings": sampling.sampler.model_dump_json(exclude={"name"}),
            **sampling.facts(),
        }
        number = evaluation.images_per_class * len(source.manifest.class_names)
        existing: list[dict[str, Any]] = []
        for folder in layout.evaluations_in(store.list(layout.EVALUATIONS)):
            try:
                result = unseal(store.read_text(f"{folder}/{layout.EVALUATION_RESULT}"))
            except Altered:
                continue
            if about.items() <= result["provenance"].items():
                existing.append(result)
        existing.sort(key=lambda result: result["provenance"]["n_generated"] != number)
        return existing[0] if existing else None

    def classifiers(self) -> list[ClassifierRun]:
        """Return the classifiers to train and test.

        Raises:
            UsageProblem: a class would be tested on images that it was trained on, or keeps no image.
        """
        source, order = self.source, self.order
        bench = Bench.of(source.experiment, source.splits)
        candidates = Candidates(source, self.counts, 1, given_mask=self.mask)
        return [
            bench.training.run(arm, seed, bench.splits, added_images(arm, seed, candidates))
            for seed in range(order.seeds)
            for arm in order.arms
        ]

    def measure(
        self,
        workers: int | Literal["all"] = 1,
        on_phase: OnPhase = lambda _line: None,
        on_share: Callable[[float], None] = lambda _share: None,
    ) -> Measured:
        """Return what the classifiers reach; those that are missing are trained.

        Args:
            workers: 1 trains in this process, more on Ray.
            on_share: takes the share of them, in [0, 1], that is trained.
        """
        order, counts = self.order, self.counts
        return measure(
            self.source, counts, order.arms, order.seeds, workers, on_phase, self.mask, on_share
        )
