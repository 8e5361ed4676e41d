"""Trained models, ready to generate images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ...trainers.data.batches import to_uint8
from ...trainers.errors import UsageProblem, did_you_mean
from ...trainers.export import Exported
from ..analysis.sample import changed_sampling, load_target
from ..storage.store import Storage
from .stores import open_store


class Model:
    """A trained model: class names, and images of any class."""

    def __init__(self, exported: Exported) -> None:
        self._exported = exported
        card = exported.card
        self.class_names: tuple[str, ...] = tuple(card.class_names)
        self.class_counts: tuple[int, ...] = tuple(card.class_counts)
        """Training images of each class."""
        self.image_shape: tuple[int, int, int] = card.image_shape
        """(C, H, W)."""

    def sample(
        self,
        labels: Sequence[int | str],
        *,
        omega: float | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> NDArray[np.uint8]:
        """Return an image for each label, (N, C, H, W).

        The n-th image of a class is the same in every call with the same seed and settings.

        Args:
            labels: class ids or names.
            omega: guidance strength; None: the model's.
            sampler: as `sampling.sampler.name`; None: the model's.
            steps: of the sampler; None: the model's, or those of the other sampler.

        Raises:
            UsageProblem: a label that is no class, or a setting out of range.
        """
        ids = torch.tensor([self._class_id(label) for label in labels], dtype=torch.int64)
        sampling = changed_sampling(self._exported, omega, steps, sampler)
        images: NDArray[np.uint8] = to_uint8(self._exported.sample(ids, sampling, seed)).numpy()
        return images

    def _class_id(self, label: int | str) -> int:
        names = self.class_names
        if isinstance(label, str):
            if label in names:
                return names.index(label)
        elif isinstance(label, int | np.integer) and 0 <= label < len(names):
            return int(label)
        raise UsageProblem(
            f"the model has no class {label!r}",
            f"{did_you_mean(str(label), names)}give ids 0 to {len(names) - 1} or names",
        )


def load_model(
    reference: str, *, storage: Storage | str | None = None, tracking: str | None = None
) -> Model:
    """Return a registered model, or the model of a run's last checkpoint (its EMA weights).

    Args:
        reference: models:/NAME@ALIAS, models:/NAME/VERSION, a run, or SWEEP/TRIAL.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Raises:
        UsageProblem: no such model or run.
        CheckpointProblem: a model that is not Whipray's, or a damaged checkpoint.
    """
    return Model(load_target(open_store(storage), tracking, reference))
