"""Evaluate one checkpoint, at one sampling setting or at many, from the same noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...trainers.errors import UsageProblem
from ...trainers.sampling import SamplingConfig
from ...trainers.scratch import Scratch
from ..config.experiment import Experiment, with_values
from ..config.parameters import Values
from ..evaluation.bootstrap import Estimate
from ..evaluation.evaluate import evaluate
from ..evaluation.extractors.base import OnPhase
from ..evaluation.metrics import METRICS
from ..evaluation.pages.content import CurvePoint
from ..evaluation.warnings import chosen_among
from ..foundation.background import Lazy
from ..generation.loading import (
    load_model,
    load_splits,
    load_training_images,
    reload_extractor,
)
from ..generation.pictures import collect
from ..generation.pipeline import ImagePipeline
from ..generation.shards import ShardWorker
from ..generation.workers import Workers
from ..storage.store import Storage
from .evaluation_files import EvaluationFiles
from .evaluation_inputs import EvaluationInputs, load_inputs


@dataclass(frozen=True)
class Evaluated:
    """The result at one sampling setting."""

    sampling: SamplingConfig
    metrics: dict[str, float]
    provenance: dict[str, Any]
    folder: str
    """In the run's; `evaluation_files.FILES` are in it."""
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
    """Evaluates one checkpoint; made by `open_evaluator`."""

    def __init__(
        self, inputs: EvaluationInputs, pipeline: ImagePipeline, files: EvaluationFiles
    ) -> None:
        self.inputs, self.pipeline, self.files = inputs, pipeline, files

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

    def evaluate_at(self, values: Values | None = None) -> Evaluated:
        """Return the result at one sampling setting, from the store or computed now."""
        values = values or {}
        changed = with_values(self.experiment, values, "the points to try")
        sampling = changed.sampling.effective(changed.process)
        folder = self.inputs.evaluation_folder(sampling)
        result = self.files.read_result(folder) or self._evaluate(sampling, folder)
        metrics, about, warnings = (result[k] for k in ("metrics", "provenance", "warnings"))
        return Evaluated(sampling, metrics, about, folder, values, tuple(warnings))

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
        """Return the best point, the earliest of equal ones; put all points into its report.

        The images of the other points are deleted; its own too unless `evaluation.keep_samples`.
        """
        best = self.experiment.evaluation.goal.best(tried, self.value)
        if len(tried) > 1:
            warning = chosen_among(len(tried), self.experiment.evaluation.rank_by)
            self.files.add_curve(best.folder, curve(tried, best), warning)
            best = replace(best, warnings=(*best.warnings, warning))
        self.delete_samples([point for point in tried if point.folder != best.folder])
        if not self.experiment.evaluation.keep_samples:
            self.delete_samples([best])
        return best

    def delete_samples(self, points: Sequence[Evaluated]) -> None:
        """Delete the images and features of these points; their results stay."""
        for folder in {self.inputs.samples_folder(point.sampling) for point in points}:
            self.inputs.root.delete(folder)

    def _evaluate(self, sampling: SamplingConfig, folder: str) -> dict[str, Any]:
        inputs, config = self.inputs, self.experiment.evaluation
        description = sampling.label
        real = self.pipeline.extract_real()
        find_nearest = any(METRICS[name].needs_nearest for name in config.metrics)
        images = self.pipeline.generate(inputs.shards(sampling), description, find_nearest)
        self.pipeline.on_phase(f"{description}: computing metrics")
        about, nearest = inputs.provenance(sampling), images.nearest
        if nearest is not None:
            about |= nearest.provenance(inputs.classes.names)
        report = evaluate(
            images.features,
            images.labels,
            real,
            inputs.splits.reference.labels,
            inputs.classes,
            inputs.extractor.info,
            config,
            about,
            None if nearest is None else nearest.ratio,
        )
        return self.files.write(folder, report, collect(report, inputs.root, images, inputs.splits))


@contextmanager
def open_evaluator(
    experiment: Experiment, store: Storage, checkpoint: str, on_phase: OnPhase
) -> Iterator[Evaluator]:
    """Load what an evaluation needs; inside, workers and local files are kept.

    Args:
        experiment: says which metrics are computed; its sampling settings are the default.
        store: the run's folder.
        checkpoint: its name.
        on_phase: takes a line about what is being done.

    Raises:
        DataProblem: the real images have other classes or shapes than the model.
        UsageProblem: `evaluation.groups` or `evaluation.rank_by` does not fit the classes.
    """
    inputs = load_inputs(experiment, store, checkpoint, on_phase)
    config = experiment.evaluation
    shard_worker = ShardWorker(
        inputs.root,
        Lazy(partial(load_model, store, checkpoint, experiment)),
        Lazy(partial(reload_extractor, experiment, inputs.root), inputs.extractor),
        Lazy(partial(load_splits, experiment), inputs.splits),
        Lazy(partial(load_training_images, experiment)),
        config.batch_size,
    )
    workers = Workers(shard_worker, config.workers, experiment.scaling)
    with (
        Scratch() as scratch,
        ImagePipeline(shard_worker, workers, config.shard_images, on_phase) as pipeline,
    ):
        yield Evaluator(inputs, pipeline, EvaluationFiles(store, Path(scratch), on_phase))


def curve(tried: Sequence[Evaluated], chosen: Evaluated | None = None) -> list[CurvePoint]:
    """Return the points for a chart, by sampler and omega."""
    points = [
        CurvePoint(
            sampler=point.sampling.sampler.label,
            omega=point.sampling.guidance.omega,
            values={
                name: estimate
                for name in point.metrics
                if not name.endswith(("_low", "_high")) and (estimate := point.estimate(name))
            },
            chosen=chosen is not None and point.folder == chosen.folder,
        )
        for point in tried
    ]
    return sorted(points, key=lambda p: (p.sampler, p.omega))


def prefixed(prefix: str, on_phase: OnPhase) -> OnPhase:
    """Return a callback that puts words before every line."""
    return lambda line: on_phase(prefix + line)
