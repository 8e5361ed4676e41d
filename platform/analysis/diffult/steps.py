"""The steps of DiffuLT's pipeline: what each looks for in the store, and how it makes what is missing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ...balancing.f0 import load_f0
from ...balancing.f0_on_worker import train_f0_on_worker
from ...foundation.job import in_cluster_job
from ...runs.evaluation_inputs import check_data
from ...runs.preflight import Subject, check_continued
from ...runs.single_run import SingleRun
from ...runs.work import passes_of_evaluation
from ...storage import layout
from .materials import Materials

State = Literal["complete", "partial", "missing"]


@dataclass(frozen=True)
class Existing:
    """What the store has of a step."""

    state: State
    about: str
    """What the step makes, and how much of it exists, in a line."""
    work: float
    """Operations that are still to do; see `WorkOf`."""

    @classmethod
    def counted(cls, about: str, existing: int, wanted: int, work: float) -> Existing:
        """Return it of a step that makes several things, of which some exist."""
        if existing in (0, wanted):
            return cls("complete" if existing else "missing", about, work)
        return cls("partial", f"{about}; {existing:,} exist", work)


@dataclass(frozen=True)
class Report:
    """Callbacks of a step in work."""

    on_phase: Callable[[str], None]
    """Takes a line about what is being done."""
    on_share: Callable[[float], None]
    """Takes the share of the step, in [0, 1], that is done."""
    on_note: Callable[[str], None]
    """Takes a line that is to stay."""
    follow: Callable[[Callable[[], str]], None]
    """Takes a function that returns what is being done, to be asked again and again."""


class Step(ABC):
    """One step, whose result is kept in the store."""

    name: str
    works_on_ray = True
    """Whether it needs a Ray session that is open already, where more than one process works."""

    def __init__(self, materials: Materials) -> None:
        self.materials, self.order = materials, materials.order

    @abstractmethod
    def look(self) -> Existing:
        """Return what the store has of it; nothing is written."""

    @abstractmethod
    def make(self, report: Report) -> None:
        """Make what is missing.

        Raises:
            Problem: what stopped it; what was made until then is kept.
        """


class Train(Step):
    """The diffusion model, trained and evaluated as `whipray train` does it."""

    name = "diffusion model"
    works_on_ray = False  # it opens its own

    def look(self) -> Existing:
        """Return how far the training is.

        Raises:
            Problem: the run of this name was begun as another experiment or with other images.
        """
        materials, experiment = self.materials, self.order.experiment
        images, counts = experiment.training.images, materials.class_counts.tolist()
        evaluation = materials.work.passes(passes_of_evaluation(experiment, counts))
        saved = materials.checkpoint()
        if saved is None:
            about = f"{self.order.run}: {images:,} images to train on, then its evaluation"
            return Existing("missing", about, materials.work.training(images) + evaluation)
        subject = Subject(experiment, self.order.store, dry_run=not materials.is_trained())
        check_continued(subject)
        if not materials.is_trained():
            seen = saved[1].images_seen
            about = f"{self.order.run}: goes on from {seen:,} of {images:,} images"
            return Existing("partial", about, materials.work.training(images - seen) + evaluation)
        about = f"{self.order.run}: {saved[1].images_seen:,} images"
        if materials.has_source() and materials.evaluation() is None:
            return Existing("partial", f"{about}; to be evaluated", evaluation)
        return Existing("complete", about, 0)

    def make(self, report: Report) -> None:
        """Train from the last checkpoint, and evaluate."""
        single = SingleRun(self.order.run, self.order.experiment, report.on_note, report.on_share)
        report.follow(single.phase)
        result = single.execute()
        for line in result.trained.notes:
            report.on_note(line)
        if result.best is not None:
            for line in result.best.warnings:
                report.on_note(f"warning: {line}")


class Take(Step):
    """A diffusion model that was trained before."""

    name = "diffusion model"

    def look(self) -> Existing:
        """Return which model it is.

        Raises:
            DataProblem: it was trained on other images than the recipe's.
        """
        saved = self.materials.checkpoint()
        assert saved is not None  # the order was made of it
        check_data(saved[1], self.materials.splits)
        return Existing("complete", f"{self.order.run}: {saved[1].images_seen:,} images", 0)

    def make(self, report: Report) -> None:
        """Do nothing: it exists."""


class Fill(Step):
    """Generated images for the classes that have too few."""

    name = "generated images"

    def look(self) -> Existing:
        """Return how many of the images exist."""
        materials = self.materials
        counts = materials.class_counts.tolist()
        wanted, label = int(materials.counts.sum()), self.order.experiment.effective_sampling.label
        about = f"{wanted:,} by {label}"
        missing = wanted
        if materials.has_source():
            missing = sum(map(len, materials.source.missing(materials.counts)))
        work = materials.work.generating(missing, counts)
        return Existing.counted(about, wanted - missing, wanted, work)

    def make(self, report: Report) -> None:
        """Generate what is missing."""
        source, counts = self.materials.source, self.materials.counts
        source.fill(counts, self.order.workers, report.on_phase, report.on_share)


class TrainF0(Step):
    """f_0, a classifier of the long-tailed training images alone, by which the filter judges."""

    name = "f_0"

    def look(self) -> Existing:
        """Return whether it exists."""
        materials = self.materials
        real = int(materials.class_counts.sum())
        about = f"{self.order.experiment.classification.network} on {real:,} real images"
        if materials.knows_pixels() and materials.has_f0():
            return Existing("complete", about, 0)
        return Existing("missing", about, materials.work.classifying(real))

    def make(self, report: Report) -> None:
        """Train it, on a worker where there are several."""
        order, splits = self.order, self.materials.splits
        if order.workers != 1 or in_cluster_job():
            train_f0_on_worker(order.root, order.experiment, report.on_phase)
        else:
            config = order.experiment.effective_classification
            load_f0(order.root, splits, config, report.on_phase)


class Score(Step):
    """Distances of the generated images to real ones, and what f_0 says of them."""

    name = "scores"

    def look(self) -> Existing:
        """Return how many images are scored."""
        materials = self.materials
        wanted, scored = int(materials.counts.sum()), 0
        if materials.has_source() and materials.has_f0():
            scored = materials.scored()
        real = int(materials.class_counts.sum())
        work = materials.work.using_classifier(wanted - scored + real) if scored < wanted else 0
        about = f"{wanted:,} images: d1, d2, d3, near copies"
        return Existing.counted(about, scored, wanted, work)

    def make(self, report: Report) -> None:
        """Score what is not."""
        self.materials.score(self.order.workers, report.on_phase)


class Classify(Step):
    """Classifiers of every arm and seed, tested on real images."""

    name = "classifiers"

    def look(self) -> Existing:
        """Return how many of the classifiers exist.

        Raises:
            UsageProblem: a class would be tested on images that it was trained on.
        """
        materials, order = self.materials, self.order
        about = f"{len(order.arms) * order.seeds}: {', '.join(order.arms)}, {order.seeds} seeds"
        if not materials.knows_arms():
            added = int(materials.counts.sum())
            return Existing(
                "missing",
                about,
                sum(
                    self._work(0 if arm == "real" else added)
                    for arm in order.arms
                    for _ in range(order.seeds)
                ),
            )
        planned = {each.key: each for each in materials.classifiers()}
        stored = order.root.list(layout.CLASSIFIERS)
        missing = [each for each in planned.values() if each.file not in stored]
        work = sum(
            self._work(0 if each.added is None else len(each.added.rows)) for each in missing
        )
        return Existing.counted(about, len(planned) - len(missing), len(planned), work)

    def _work(self, added: int) -> float:
        """Return the work of one classifier that is trained on so many images besides the real ones."""
        real = int(self.materials.class_counts.sum())
        of_all = self.order.experiment.classification.epoch_of == "all"
        return self.materials.work.classifying(real + added if of_all else real)

    def make(self, report: Report) -> None:
        """Train and test what is missing."""
        self.materials.measure(self.order.workers, report.on_phase, report.on_share)
