"""What an evaluation depends on, and the folders that are named by it.

Results are kept by everything that they depend on (checkpoint, sampling, seed, real images,
extractor, metrics), so that nothing is generated or computed twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...trainers.checkpoint import Manifest
from ...trainers.data import Splits
from ...trainers.data.identity import DataIdentity
from ...trainers.errors import DataProblem
from ...trainers.sampling import SamplingConfig
from ..balancing.classifiers import FORMAT as CLASSIFIER_FORMAT
from ..config.experiment import Experiment
from ..evaluation.evaluate import Classes, check_groups
from ..evaluation.extractors.base import Extractor, OnPhase, Value
from ..generation.loading import describe_reference, load_extractor, load_splits
from ..generation.shards import (
    GeneratedShard,
    generated_shards,
    samples_folder,
    short_hash,
    weights_hash,
)
from ..storage.checkpoints import CheckpointStore
from ..storage.layout import SAMPLES_FACT, evaluation_folder
from ..storage.store import Storage
from .evaluation_files import FORMAT

NO_EFFECT_ON_RESULT = {"batch_size", "keep_samples", "rank_by", "shard_images", "workers"}
"""Settings of an evaluation whose change leaves its results the same."""


@dataclass(frozen=True)
class EvaluationInputs:
    """One checkpoint, the real images and the extractor; made by `load_inputs`."""

    experiment: Experiment
    """Says which metrics are computed."""
    store: Storage
    """The run's folder."""
    checkpoint: str
    """Its name."""
    manifest: Manifest
    """Of the checkpoint."""
    averages: Mapping[str, Manifest]
    """Power-function averages up to it: `CheckpointStore.averages`."""
    splits: Splits
    extractor: Extractor

    @property
    def root(self) -> Storage:
        """The store's top."""
        return self.store.root

    @property
    def classes(self) -> Classes:
        """The classes that the model was trained on."""
        names = tuple(self.manifest.class_names)
        return Classes(names, self.manifest.class_counts, self.splits.borrowed)

    def shards(self, sampling: SamplingConfig, seed: int) -> list[GeneratedShard]:
        """Return the shards of the images that one sampling setting is evaluated by.

        Args:
            seed: of the images' noise.
        """
        config = self.experiment.evaluation
        return generated_shards(
            self.samples_folder(sampling, seed),
            sampling,
            seed,
            [config.images_per_class] * len(self.manifest.class_names),
            config.shard_images,
        )

    def samples_folder(self, sampling: SamplingConfig, seed: int) -> str:
        """Return the folder of a setting's images and features, from the store's top."""
        return samples_folder(self.store, self.weights_hash(sampling), sampling, seed)

    def weights_hash(self, sampling: SamplingConfig) -> str:
        """Return what the weights are known by.

        Raises:
            UsageProblem: a width that the averages kept cannot form.
        """
        return weights_hash(self.manifest, self.averages, sampling)

    def evaluation_folder(self, point: Experiment, seed: int) -> str:
        """Return the folder of a setting's result, in the run's.

        Args:
            point: its `sampling`, and where classifiers are trained its `balancing` and `classification`.
            seed: of the images' noise.
        """
        content = [
            FORMAT,
            self.samples_folder(point.sampling, seed).rpartition("/")[2],
            self.experiment.evaluation.model_dump(
                mode="json", exclude=NO_EFFECT_ON_RESULT | {"reference", "features"}
            ),
            self.splits.train.fingerprint(),
            self.splits.reference.fingerprint(),
            self.extractor.info.key,
        ]
        if point.evaluation.trains_classifiers:
            content += [
                CLASSIFIER_FORMAT,
                point.balancing.target(self.manifest.class_counts),
                point.balancing.model_dump(mode="json", exclude={"to", "of_largest"}),
                point.effective_classification.model_dump(mode="json"),
            ]
        return evaluation_folder(short_hash(content))

    def provenance(self, sampling: SamplingConfig, seed: int) -> dict[str, Value]:
        """Return how the images of a setting are made, and what the real ones are."""
        reference = self.splits.reference
        counts = reference.class_counts
        return {
            "model": self.experiment.name,
            "checkpoint": self.manifest.content_hash(),
            "images_seen": self.manifest.images_seen,
            **sampling.facts(),
            "sampler_settings": sampling.sampler.model_dump_json(exclude={"name"}),
            "seed": seed,
            SAMPLES_FACT: self.samples_folder(sampling, seed).rpartition("/")[2],
            "train": self.splits.train.fingerprint(),
            "reference": reference.fingerprint(),
            "reference_per_class": f"{counts.min()} to {counts.max()}",
            "reference_source": describe_reference(self.experiment, self.splits),
            "reference_borrowed": self._borrowed(),
        }

    def _borrowed(self) -> str | None:
        """Return the names of the classes that are compared with their training images."""
        names = [self.splits.train.class_names[c] for c in self.splits.borrowed]
        return ", ".join(names) or None


def load_inputs(
    experiment: Experiment, store: Storage, checkpoint: str, on_phase: OnPhase
) -> EvaluationInputs:
    """Load the real images and the extractor for a checkpoint; the extractor may be trained now.

    Raises:
        DataProblem: the real images have other classes or shapes than the model.
        UsageProblem: `evaluation.groups` or `evaluation.rank_by` does not fit the classes.
    """
    checkpoints = CheckpointStore(store)
    manifest = checkpoints.read_manifest(checkpoint)
    averages = checkpoints.averages(checkpoint) if manifest.profiles else {}
    splits = load_splits(experiment, store.root)
    check_data(manifest, splits)
    check_groups(experiment.evaluation, manifest.class_counts)
    on_phase("preparing the feature extractor")
    extractor = load_extractor(experiment, splits, store.root, on_phase)
    return EvaluationInputs(experiment, store, checkpoint, manifest, averages, splits, extractor)


def check_data(manifest: Manifest, splits: Splits) -> None:
    """Check the training images, which copies are searched in, and the reference.

    Raises:
        DataProblem: others than the model was trained on, wherever they lie.
    """
    saved, reference = manifest.data, splits.reference
    looks_alike = DataIdentity(
        reference.class_names, saved.class_counts, reference.image_shape, None
    )
    unlike = saved.difference(DataIdentity.of(splits.train)) or saved.difference(looks_alike)
    if unlike:
        raise DataProblem(
            f"the data are not those that the model was trained on: {unlike}",
            "restore them, or set data.root (data.path, data.train_list) to where they lie now",
        )
