"""Evaluate one checkpoint, at one sampling setting or at many, from the same noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...trainers.errors import UsageProblem
from ...trainers.guidance import Autoguidance
from ...trainers.randomness import derive_seed
from ...trainers.sampling import SamplingConfig
from ...trainers.scratch import Scratch
from ..balancing.filling import ImageSource
from ..balancing.usefulness import Accuracy, accuracy_at
from ..config.experiment import Experiment, with_values
from ..config.parameters import Values
from ..evaluation.bootstrap import Estimate
from ..evaluation.evaluate import evaluate
from ..evaluation.extractors.base import OnPhase, Value
from ..evaluation.metrics import METRICS
from ..evaluation.pages.content import CurvePoint
from ..evaluation.pages.training_curves import Series
from ..evaluation.report import Report
from ..foundation.background import Lazy
from ..generation.loading import (
    Models,
    load_splits,
    load_training_images,
    reload_extractor,
)
from ..generation.pictures import collect
from ..generation.pipeline import ImagePipeline
from ..generation.shard_tasks import ShardWorker
from ..generation.workers import Workers
from ..storage.store import Storage
from .evaluation_files import EvaluationFiles
from .evaluation_inputs import EvaluationInputs, load_inputs
from .resolve_guide import fixed_sampling
from .work import BESIDES_SAMPLING

OnShare = Callable[[float], None]
"""Takes the share of some work that is done, in [0, 1]."""


@dataclass(frozen=True)
class Evaluated:
    """The result at one sampling setting."""

    sampling: SamplingConfig
    metrics: dict[str, float]
    provenance: dict[str, Any]
    folder: str
    """In the run's; `evaluation_files.FILES` are in it."""
    seed: int
    """Of the noise that its images are made from."""
    values: Values = field(default_factory=dict)
    """The settings that a search changed, by dotted key."""
    warnings: tuple[str, ...] = ()
    """What to know before believing the metrics."""

    def estimate(self, name: str) -> Estimate | None:
        """Return `fid/overall` with its interval; None where it is undefined."""
        if name not in self.metrics:
            return None
        return Estimate(*(self.metrics[f"{name}{end}"] for end in ("", "_low", "_high")))


class Evaluator:
    """Evaluates one checkpoint; made by `open_evaluator`.

    Settings are chosen by images of one noise, and reported with images of another: the best of many is the
    best in part because its noise suited it.
    """

    def __init__(
        self, inputs: EvaluationInputs, pipeline: ImagePipeline, files: EvaluationFiles
    ) -> None:
        self.inputs, self.pipeline, self.files = inputs, pipeline, files
        self.points = 1
        """How many settings are evaluated in all, for the time left."""
        self.on_share: OnShare = lambda _share: None
        """Takes the share of the evaluations that is done."""
        self._evaluated = 0
        self._contents: dict[str, str] = {}  # of guides, by name

    @property
    def experiment(self) -> Experiment:
        """The experiment; its sampling settings are the default."""
        return self.inputs.experiment

    @property
    def images_generated(self) -> int:
        """How many images had to be generated; 0 where all were in the store."""
        return self.pipeline.images_generated

    def report_to(self, on_phase: OnPhase) -> None:
        """Pass the lines about what is being done to another callback from now on."""
        self.pipeline.on_phase = self.files.on_phase = on_phase

    @property
    def search_seed(self) -> int:
        """Seed of the noise by which settings are chosen."""
        return derive_seed(self.experiment.seed, "search")

    def evaluate_at(self, values: Values | None = None, seed: int | None = None) -> Evaluated:
        """Return the result at one setting, from the store or computed now.

        Args:
            values: settings that differ from the experiment's, by dotted key: of `sampling`, and where
                classifiers are trained of `balancing` and `classification`.
            seed: of the noise; None: the experiment's, with which results are reported.

        Raises:
            UsageProblem, CheckpointProblem: as `fixed_sampling`.
            UsageProblem: nothing to fill up.
        """
        values, seed = values or {}, self.experiment.seed if seed is None else seed
        point = self.experiment_at(values)
        sampling, folder = point.sampling, self.inputs.evaluation_folder(point, seed)
        result = self.files.read_result(folder) or self._evaluate(point, seed, folder)
        self._evaluated += 1
        self._report_share(0.0)
        metrics, about, warnings = (result[k] for k in ("metrics", "provenance", "warnings"))
        return Evaluated(sampling, metrics, about, folder, seed, values, tuple(warnings))

    def check(self, points: Sequence[Values]) -> None:
        """Check before any image is generated that there are the weights and the guides of all points.

        Raises:
            UsageProblem: an `ema_width` that the averages kept cannot form, or as `fixed_sampling`.
            CheckpointProblem: as `fixed_sampling`.
        """
        for values in points:
            self.inputs.weights_hash(self.sampling_at(values))

    def sampling_at(self, values: Values) -> SamplingConfig:
        """Return the sampling of `experiment_at`."""
        return self.experiment_at(values).sampling

    def experiment_at(self, values: Values) -> Experiment:
        """Return the experiment of one setting; its sampling has everything in it that decides the images.

        A guide is looked up once.

        Raises:
            UsageProblem, CheckpointProblem: as `fixed_sampling`.
        """
        changed = with_values(self.experiment, values, "the points to try")
        guidance = changed.sampling.guidance
        if isinstance(guidance, Autoguidance) and guidance.guide in self._contents:
            known = guidance.model_copy(update={"content": self._contents[guidance.guide]})
            sampling = changed.sampling.model_copy(update={"guidance": known})
            changed = changed.model_copy(update={"sampling": sampling})
        fixed = fixed_sampling(changed, self.inputs.store, self.inputs.checkpoint)
        if isinstance(fixed.guidance, Autoguidance) and fixed.guidance.content:
            self._contents[fixed.guidance.guide] = fixed.guidance.content
        return changed.model_copy(update={"sampling": fixed})

    def value(self, point: Evaluated) -> float:
        """Return the value that points are ordered by, of `evaluation.rank_by`.

        Raises:
            UsageProblem: there are too few images for it.
        """
        rank_by = self.experiment.evaluation.rank_by
        if rank_by not in point.metrics:
            raise UsageProblem(
                f"{rank_by} cannot be computed: too few images, or another extractor than it needs",
                "raise evaluation.images_per_class, or set another evaluation.rank_by",
            )
        return point.metrics[rank_by]

    def select_best(self, tried: Sequence[Evaluated]) -> Evaluated:
        """Return the best point, the earliest of equal ones, as other noise has it.

        The images of the search are deleted, and those of the result unless `evaluation.keep_samples`.

        Args:
            tried: by the noise of `search_seed`, or one point by that of the experiment.
        """
        best = self.experiment.evaluation.goal.best(tried, self.value)
        own = best.seed == self.experiment.seed
        reported = best if own else self.evaluate_at(best.values)
        if len(tried) > 1:
            points = self.curve(tried, best)
            self.files.add_curve(reported.folder, points)
        self.delete_samples([point for point in tried if point.folder != reported.folder])
        if not self.experiment.evaluation.keep_samples:
            self.delete_samples([reported])
        return reported

    def curve(
        self, tried: Sequence[Evaluated], chosen: Evaluated | None = None
    ) -> list[CurvePoint]:
        """Return points for charts and tables, in their order."""
        return [
            CurvePoint(
                sampling=point.sampling,
                omega=self._mean_omega(point.sampling),
                values={
                    name: estimate
                    for name in point.metrics
                    if not name.endswith(("_low", "_high")) and (estimate := point.estimate(name))
                },
                chosen=point is chosen,
            )
            for point in tried
        ]

    def _mean_omega(self, sampling: SamplingConfig) -> float:
        omegas = sampling.guidance.strengths(self.inputs.manifest.class_counts)
        return round(float(omegas.double().mean()), 6)

    def delete_samples(self, points: Sequence[Evaluated]) -> None:
        """Delete the images and features of these points; their results stay."""
        for folder in {self.inputs.samples_folder(p.sampling, p.seed) for p in points}:
            self.inputs.root.delete(folder)

    def _report_share(self, of_this: float) -> None:
        """Report what is done, with a share in [0, 1] of the present evaluation."""
        points = max(self.points, self._evaluated)
        self.on_share(min(1.0, (self._evaluated + of_this) / points))

    def _evaluate(self, point: Experiment, seed: int, folder: str) -> dict[str, Any]:
        inputs, config, sampling = self.inputs, self.experiment.evaluation, point.sampling
        seconds = self.pipeline.seconds = {}
        begin = time.perf_counter()
        accuracy = self._classify(point, seed) if config.trains_classifiers else None
        if accuracy is not None:
            seconds["classifiers"] = time.perf_counter() - begin
        description = sampling.label
        real = self.pipeline.extract_real()
        find_nearest = any(METRICS[name].needs_nearest for name in config.metrics)
        generating = 1 - BESIDES_SAMPLING
        self.pipeline.on_generated = lambda share: self._report_share(generating * share)
        images = self.pipeline.generate(inputs.shards(sampling, seed), description, find_nearest)

        def on_metric(message: tuple[str, int, int]) -> None:
            words, done, total = message
            self.pipeline.on_phase(f"computing {done + 1} of {total}: {words} ({description})")
            self._report_share(generating + (1 - generating) * done / total)

        about, nearest = inputs.provenance(sampling, seed), images.nearest
        if accuracy is not None:
            about |= self._facts_of_classifiers(point)
        if nearest is not None:
            about |= nearest.provenance(inputs.classes.names)
        of_features = {
            "generated": images.features,
            "generated_labels": images.labels,
            "real": real,
            "real_labels": inputs.splits.reference.labels,
            "classes": inputs.classes,
            "info": inputs.extractor.info,
            "config": config,
            "about": about,
            "copy_ratios": None if nearest is None else nearest.ratio,
            "copied_labels": None
            if nearest is None
            else inputs.splits.train.labels[nearest.nearest],
            "given": None if accuracy is None else _estimates(accuracy.metrics),
        }
        compute = partial(_evaluate_features, of_features)
        report = self.pipeline.workers.compute(compute, on_metric)
        report = replace(report, seconds={**seconds, **report.seconds})
        if accuracy is not None:
            report = replace(report, warnings=(*report.warnings, *accuracy.warnings))
        return self.files.write(folder, report, collect(report, inputs.root, images, inputs.splits))

    def _classify(self, point: Experiment, seed: int) -> Accuracy:
        """Return the accuracy of classifiers that images of this noise are added for."""
        inputs = self.inputs
        of_noise = point.model_copy(update={"seed": seed})
        source = ImageSource(
            inputs.store, inputs.checkpoint, of_noise, inputs.manifest, inputs.splits
        )
        workers = self.pipeline.workers.size
        self.pipeline.workers.release()  # classifiers are trained by actors of their own
        return accuracy_at(source, of_noise, workers, self.pipeline.on_phase)

    def _facts_of_classifiers(self, point: Experiment) -> dict[str, Value]:
        """Return what classifiers were trained on and how, for the provenance."""
        balancing, config = point.balancing, point.effective_classification
        to = balancing.target(self.inputs.manifest.class_counts)
        interval = "Wilson's, over real images" if balancing.seeds == 1 else "Student's, over seeds"
        return {
            "balancing": f"to {to:,} of each class, {balancing.filter.label}",
            "classifier": (
                f"{config.network}, {config.epochs} epochs, loss {config.loss.name}, weight of a generated "
                f"image {config.generated_weight:g}, seeds {balancing.seeds}"
            ),
            "accuracy_interval": interval,
        }


def _evaluate_features(inputs: Mapping[str, Any], put: Callable[[Any], None]) -> Report:
    """Call `evaluate`, and pass the arguments of its callback on as one message."""
    return evaluate(**inputs, on_metric=lambda *message: put(message))


def _estimates(metrics: Mapping[str, float]) -> dict[str, Estimate]:
    """Return values with their intervals, of `accuracy/few`, `accuracy/few_low`, `accuracy/few_high`, ..."""
    return {
        name: Estimate(value, metrics[f"{name}_low"], metrics[f"{name}_high"])
        for name, value in metrics.items()
        if not name.endswith(("_low", "_high"))
    }


@contextmanager
def open_evaluator(
    experiment: Experiment,
    store: Storage,
    checkpoint: str,
    on_phase: OnPhase,
    history: Callable[[], Series] = dict,
) -> Iterator[Evaluator]:
    """Load what an evaluation needs; inside, workers and local files are kept.

    Args:
        experiment: says which metrics are computed; its sampling settings are the default.
        store: the run's folder.
        checkpoint: its name.
        on_phase: takes a line about what is being done.
        history: as `EvaluationFiles`.

    Raises:
        DataProblem: the real images have other classes or shapes than the model.
        UsageProblem: `evaluation.groups` or `evaluation.rank_by` does not fit the classes.
    """
    inputs = load_inputs(experiment, store, checkpoint, on_phase)
    config = experiment.evaluation
    models = Models(store, checkpoint)
    shard_worker = ShardWorker(
        inputs.root,
        models,
        Lazy(partial(reload_extractor, experiment, inputs.root), inputs.extractor),
        Lazy(partial(load_splits, experiment, inputs.root), inputs.splits),
        Lazy(partial(load_training_images, experiment, inputs.root)),
        config.batch_size,
    )
    workers = Workers(shard_worker, config.workers, experiment.scaling)
    with (
        closing(models),
        Scratch() as scratch,
        ImagePipeline(shard_worker, workers, config.shard_images, on_phase) as pipeline,
    ):
        yield Evaluator(inputs, pipeline, EvaluationFiles(store, Path(scratch), on_phase, history))


def prefixed(prefix: str, on_phase: OnPhase) -> OnPhase:
    """Return a callback that puts words before every line."""
    return lambda line: on_phase(prefix + line)
