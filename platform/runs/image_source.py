"""A run's checkpoint as a source of generated images that classes are filled up with."""

from __future__ import annotations

from ...trainers.data import Splits
from ..balancing.filling import ImageSource
from ..config.experiment import Experiment
from ..generation.loading import load_splits
from ..storage.checkpoints import CheckpointStore
from ..storage.store import Storage
from .evaluation_inputs import check_data
from .resolve_guide import fixed_sampling


def image_source(
    experiment: Experiment, store: Storage, checkpoint: str, splits: Splits | None = None
) -> ImageSource:
    """Return a checkpoint with all that decides its images.

    Args:
        experiment: the run's, with other settings perhaps.
        store: the run's folder.
        checkpoint: its name.
        splits: the real images, classifiers' test images among them; None: they are read.

    Raises:
        DataProblem: the training images are gone, or others than the model was trained on.
        UsageProblem, CheckpointProblem: as `fixed_sampling`.
    """
    sampling = fixed_sampling(experiment, store, checkpoint)
    experiment = experiment.model_copy(update={"sampling": sampling})
    manifest = CheckpointStore(store).read_manifest(checkpoint)
    if splits is None:
        splits = load_splits(experiment.for_classifiers, store.root)
    check_data(manifest, splits)
    return ImageSource(store, checkpoint, experiment, manifest, splits)
