"""The second level of a search: guidance and sampler, on a finished checkpoint, without training.

Every point starts from the same noise. What was computed is kept by what it depends on (checkpoint,
sampling, number and seed, reference, extractor), so a resumed sweep generates nothing twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from ...search_spaces.space import Space, Values
from ...trainers.data import Splits
from ...trainers.data.batches import to_uint8
from ...trainers.export import Exported
from ...trainers.samplers import SamplingConfig, balanced_labels
from ..evaluation.config import EvaluationConfig
from ..evaluation.features import FeatureNet
from ..evaluation.grid import class_grid
from ..evaluation.report import evaluate
from ..experiment import Experiment, with_values
from ..storage import MissingObject, Storage

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Evaluated:
    """One point of the second level."""

    values: Values
    sampling: SamplingConfig
    metrics: dict[str, float]
    provenance: dict[str, Any]
    folder: str
    """In the store: report.html, per_class.parquet, grid.png, result.json."""


class GuidanceSearch:
    """Evaluates sampling settings of one model.

    Args:
        model: the exported network.
        data: for the reference images and the training counts.
        features: the extractor.
        store: the run's place in the store; `evaluations/` is used.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: Exported,
        data: Splits,
        features: FeatureNet,
        store: Storage,
        progress: Progress,
    ) -> None:
        self.experiment = experiment
        self.model, self.data, self.features = model, data, features
        self.store, self.progress = store, progress
        self.generated = 0
        """Images that had to be generated; 0 where all was known."""

    def search(self, space: Space | None) -> list[Evaluated]:
        """All points tried, in order; without a `sample:` level the experiment's own settings."""
        if space is None or not space.sample:
            return [self.evaluate({})]
        return [self.evaluate(values) for values in self._points(space)]

    def best(self, tried: list[Evaluated]) -> Evaluated:
        """By `evaluation.rank_by`; the earliest of equals."""
        config = self.experiment.evaluation
        sign = 1 if config.direction == "minimize" else -1
        return min(tried, key=lambda point: sign * point.metrics[config.rank_by])

    def evaluate(self, values: Values) -> Evaluated:
        """One setting: from the store, or generated and measured now."""
        experiment = (
            with_values(self.experiment, values, "sample level") if values else (self.experiment)
        )
        sampling, config = experiment.sampling, experiment.evaluation
        key = self._key(sampling, config)
        try:
            kept = json.loads(self.store.read_text(f"evaluations/{key}/result.json"))
        except MissingObject:
            kept = self._measure(sampling, config, key)
        return Evaluated(
            values, sampling, kept["metrics"], kept["provenance"], f"evaluations/{key}"
        )

    def _points(self, space: Space) -> Iterator[Values]:
        limit = self.experiment.tuning.sample_points
        size = space.size("sample")
        if size is not None and size <= limit:
            yield from space.grid("sample")
            return
        sampler = optuna.samplers.TPESampler(seed=self.experiment.tuning.seed, n_startup_trials=4)
        config = self.experiment.evaluation
        study = optuna.create_study(sampler=sampler, direction=config.direction)
        for _ in range(limit):
            trial = study.ask()
            values = space.suggest(trial, "sample")
            yield values
            study.tell(trial, self.evaluate(values).metrics[config.rank_by])  # known by then

    def _key(self, sampling: SamplingConfig, config: EvaluationConfig) -> str:
        depends_on = [
            self.model.card.checkpoint,
            sampling.model_dump(exclude={"batch_size"}),
            config.model_dump(exclude={"batch_size", "rank_by"}),
            self.experiment.seed,
            self.data.reference.fingerprint(),
            self.features.card.hash,
        ]
        return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]

    def _measure(
        self, sampling: SamplingConfig, config: EvaluationConfig, key: str
    ) -> dict[str, Any]:
        classes = len(self.model.card.class_names)
        labels = balanced_labels(classes, classes * config.images_per_class)
        images = self._generate(labels, sampling)
        ids = labels.numpy()
        provenance: dict[str, str | int | float | bool | None] = {
            "checkpoint": self.model.card.checkpoint,
            "sampler": sampling.sampler,
            "steps": sampling.steps,
            "eta": sampling.eta,
            "omega": sampling.omega,
            "clip_x0": sampling.clip_x0,
            "weights": sampling.weights,
            "seed": self.experiment.seed,
        }
        counts = self.model.card.class_counts
        report = evaluate(
            images, ids, self.data.reference, counts, self.features, config, provenance
        )
        result = {"metrics": report.metrics(), "provenance": report.provenance}
        with TemporaryDirectory(prefix="whipray-") as scratch:
            folder = Path(scratch)
            grid = class_grid(images, ids, self.model.card.class_names, train_counts=counts)
            grid.save(folder / "grid.png")
            report.to_parquet(folder / "per_class.parquet")
            report.to_html(folder / "report.html", grid)
            for file in sorted(folder.iterdir()):
                self.store.put_file(file, f"evaluations/{key}/{file.name}")
        # last: an evaluation exists when its result does
        self.store.write_text(f"evaluations/{key}/result.json", json.dumps(result, indent=1))
        return result

    def _generate(self, labels: torch.Tensor, sampling: SamplingConfig) -> NDArray[np.uint8]:
        def done(count: int) -> None:
            self.progress(f"omega {sampling.omega:g}: {count}/{len(labels)} images")

        self.generated += len(labels)
        images = self.model.sample(labels, sampling, self.experiment.seed, progress=done)
        pixels: NDArray[np.uint8] = to_uint8(images).numpy()
        return pixels
