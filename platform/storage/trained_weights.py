"""The weights of one checkpoint, of any average that the store can give."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor

from ...trainers.averaging import Fit, Profile, combine, fit_or_refuse
from ...trainers.checkpoint import EMA, Manifest, read_tensors
from ...trainers.export import GUIDE, ModelCard, Pretrained, model_of, write_exported
from ...trainers.guidance import Autoguidance
from ...trainers.sampling import SamplingConfig
from ...trainers.trainer_config import PretrainedConfig
from .checkpoints import CheckpointStore
from .pretrained import fetch_guide, load_pretrained
from .store import Storage


def fit_width(averages: Mapping[str, Manifest], images_seen: int, width: float) -> Fit:
    """Return how the average of a width is formed at a moment.

    Args:
        averages: as `CheckpointStore.averages` returns them, up to that moment.

    Raises:
        UsageProblem: it cannot be formed from them.
    """
    kept = [Profile(m.images_seen, w) for m in averages.values() for w in m.profiles]
    return fit_or_refuse(kept, Profile(images_seen, width))


class TrainedWeights:
    """The weights of one checkpoint, downloaded when they are first needed and then kept in a folder.

    Args:
        run: the run's folder.
        checkpoint: its name.
        folder: an empty one of this machine.

    Raises:
        CheckpointProblem: there is none of this name, or its manifest is damaged.
    """

    def __init__(self, run: Storage, checkpoint: str, folder: Path) -> None:
        self._run, self._checkpoint, self._folder = run, checkpoint, folder
        self._store = CheckpointStore(run)
        self.manifest = self._store.read_manifest(checkpoint)
        self._fetched: dict[int, tuple[Path, Manifest]] = {}
        """Images seen -> a folder with the averages of that moment, and their description."""

    def model(self, sampling: SamplingConfig) -> tuple[ModelCard, dict[str, Tensor]]:
        """Return the card and the weights of a plain network for these settings.

        Raises:
            CheckpointProblem: what is read is missing or damaged.
            UsageProblem: `weights=general` of a model without reserved capacity, or an `ema_width` that
                the averages kept cannot form.
        """
        width = sampling.ema_width
        trained = self._of_half_life() if width is None else self._of_width(width)
        return model_of(trained, self.manifest, sampling, self._pretrained)

    def _of_half_life(self) -> dict[str, Tensor]:
        return read_tensors(self._whole_checkpoint, self.manifest, EMA)

    @cached_property
    def _whole_checkpoint(self) -> Path:
        folder = self._folder / self._checkpoint
        folder.mkdir(parents=True, exist_ok=True)
        self._store.fetch(self._checkpoint, folder)
        return folder

    def _of_width(self, width: float) -> dict[str, Tensor]:
        """Return the weights' average of a width; only the averages that it takes are downloaded."""
        formed = fit_width(self._averages, self.manifest.images_seen, width)
        for name, described in self._averages.items():
            seen = described.images_seen
            if seen in self._fetched or all(p.images_seen != seen for p in formed.shares):
                continue
            folder = self._folder / "averages" / name
            folder.mkdir(parents=True, exist_ok=True)
            self._fetched[seen] = folder, self._store.fetch_averages(name, described, folder)
        return combine(formed.shares, self._fetched)

    @cached_property
    def _averages(self) -> dict[str, Manifest]:
        return self._store.averages(self._checkpoint)

    @cached_property
    def _pretrained(self) -> Pretrained | None:
        """The frozen part, of a run that trained adapters only."""
        config = self.manifest.config.get("pretrained") or {}
        frozen = PretrainedConfig.model_validate(config) if config.get("lora") else None
        return load_pretrained(self._run, frozen, self.manifest)


def export_run(run: Storage, checkpoint: str, sampling: SamplingConfig, folder: Path) -> ModelCard:
    """Download a run's checkpoint, or the averages of a width, and export the model to `folder / "model"`.

    Args:
        sampling: becomes the model's default, and says which average it is; a guide has to be in the store,
            by content, and is exported with it.

    Raises:
        CheckpointProblem, UsageProblem: as `TrainedWeights.model`.
    """
    card, weights = TrainedWeights(run, checkpoint, folder / "checkpoint").model(sampling)
    write_exported(folder / "model", card, weights)
    if isinstance(sampling.guidance, Autoguidance):
        fetch_guide(run.root, sampling.guidance, folder / "model" / GUIDE)
    return card
