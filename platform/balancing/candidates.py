"""Generated images that classes may be filled up with, and which of them a filter keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from ...trainers.data import PackedImages
from ...trainers.data.report import listed, shown
from ..evaluation.arrays import Bools
from .f0 import load_f0
from .filling import Counts, Filled, ImageSource
from .filters import filter_scores
from .scores import Scores, score

OnPhase = Callable[[str], None]


@dataclass(frozen=True)
class Candidates:
    """N generated images, made and scored when they are needed; rows go class by class."""

    source: ImageSource
    """Its experiment's `balancing.filter` and `classification` say what is kept."""
    counts: Counts
    """(C,) of each class."""
    workers: int | Literal["all"]
    on_phase: OnPhase = lambda _line: None
    given_mask: Bools | None = None
    """(N,) what is kept, where it is known already."""

    @cached_property
    def planned(self) -> Filled:
        """Which images there are to be; they may still have to be made."""
        return Filled(self.source, tuple(self.source.shards(self.counts)))

    @cached_property
    def filled(self) -> Filled:
        """The same, once all are in the store."""
        return self.source.fill(self.counts, self.workers, self.on_phase)

    @cached_property
    def images(self) -> PackedImages:
        """All images."""
        return self.filled.read_all()

    @cached_property
    def scores(self) -> Scores:
        """What a filter looks at; f_0 may be trained now, and images that are not scored yet are made."""
        source = self.source
        config = source.experiment.effective_classification
        f0 = load_f0(source.store.root, source.splits, config, self.on_phase)
        return score(self.planned, source.splits, f0, self.workers, self.on_phase)

    @cached_property
    def mask(self) -> Bools:
        """(N,) whether an image is kept; without a filter all are, and none has to be made."""
        experiment = self.source.experiment
        if self.given_mask is not None:
            return self.given_mask
        if not experiment.balancing.filter.is_set:
            return np.ones(len(self.planned.labels), np.bool_)
        return filter_scores(experiment, self.scores, self.planned.labels).mask

    @property
    def kept_counts(self) -> Counts:
        """(C,) images of each class that are kept."""
        kept = self.planned.labels[self.mask]
        return np.bincount(kept, minlength=len(self.counts)).astype(np.int64)

    def warnings(self) -> tuple[str, ...]:
        """Return which classes are left without a generated image by the filter, in a line."""
        lost = np.flatnonzero((self.counts > 0) & (self.kept_counts == 0))
        if not len(lost):
            return ()
        names = self.source.splits.train.class_names
        which = listed([shown(names[c]) for c in lost])
        return (f"the filter rejects all generated images of {which}: real ones alone are left",)
