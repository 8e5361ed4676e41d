"""Load what an evaluation needs from an experiment: the model, the real images, the extractor.

The arguments pickle, so that each worker can load its own.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ...trainers.data import Splits
from ...trainers.devices import choose_device
from ...trainers.disk import cache_folder
from ...trainers.export import Exported, build_exported, load_guide
from ...trainers.guidance import Autoguidance, Denoiser
from ...trainers.sampling import SamplingConfig
from ...trainers.scratch import Scratch
from ..config.experiment import Experiment
from ..datasets.load import load_images
from ..evaluation.extractors import build_extractor, choose, with_own_classes
from ..evaluation.extractors.base import Extractor, OnPhase
from ..evaluation.extractors.nothing import Nothing
from ..evaluation.metrics import METRICS
from ..evaluation.metrics.memorisation import TrainingImages
from ..storage.pretrained import fetch_guide
from ..storage.store import Storage
from ..storage.trained_weights import TrainedWeights


def load_model(store: Storage, checkpoint: str, sampling: SamplingConfig) -> Exported:
    """Return a checkpoint's model, ready to sample from, on this machine's device.

    Args:
        sampling: becomes the model's default; a guide has to be in the store, by content.
    """
    with closing(Models(store, checkpoint)) as models:
        model = models(sampling)
    if not isinstance(sampling.guidance, Autoguidance):
        return model
    return replace(model, guide=load_stored_guide(store.root, sampling.guidance))


class Models:
    """The models of one checkpoint: of `sampling.weights` and `sampling.ema_width`, each made when asked for.

    What is downloaded for them is kept until `close`, and one network, which each model uses in turn. It
    pickles without these, so that each worker makes its own.

    Args:
        store: the run's folder.
        checkpoint: its name.
    """

    def __init__(self, store: Storage, checkpoint: str) -> None:
        self._store, self._checkpoint = store, checkpoint
        self._scratch: Scratch | None = None
        self._trained: TrainedWeights | None = None
        self._last: Exported | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_scratch": None, "_trained": None, "_last": None}

    def __call__(self, sampling: SamplingConfig) -> Exported:
        """Return the model for these settings, ready to sample from, on this machine's device.

        Raises:
            CheckpointProblem: what is read is missing or damaged.
            UsageProblem: the checkpoint has no such weights.
        """
        last = self._last
        if last is not None and _weights(last.card.sampling) == _weights(sampling):
            return last
        if self._trained is None:
            self._scratch = self._scratch or Scratch()
            folder = Path(self._scratch.name)
            self._trained = TrainedWeights(self._store, self._checkpoint, folder)
        card, weights = self._trained.model(sampling)
        if last is None:
            made = build_exported(card, weights, choose_device())
        else:
            network = last.denoiser.network
            assert isinstance(network, nn.Module)
            network.load_state_dict(weights)
            made = replace(last, card=card)
        self._last = made
        return made

    def close(self) -> None:
        """Forget the models, and remove what was downloaded for them."""
        if self._scratch is not None:
            self._scratch.cleanup()
        self._scratch = self._trained = self._last = None


def _weights(sampling: SamplingConfig) -> tuple[str, float | None]:
    return sampling.weights, sampling.ema_width


def load_stored_guide(root: Storage, guidance: Autoguidance) -> Denoiser:
    """Return a guide that was looked up before, on this machine's device."""
    with Scratch() as scratch:
        source = fetch_guide(root, guidance, Path(scratch))
        return load_guide(Path(scratch), guidance, choose_device(), source)


def load_splits(experiment: Experiment, root: Storage) -> Splits:
    """Return the training images, and the real ones to compare with.

    These are of `evaluation.reference` where that is set.

    Args:
        root: the store's top.
    """
    own, other = load_images(experiment.data, root), experiment.evaluation.reference
    return own if other is None else Splits(own.train, load_images(other, root).real_images())


def load_training_images(experiment: Experiment, root: Storage) -> TrainingImages:
    """Return what copies are searched in."""
    train = load_images(experiment.data, root).train
    return TrainingImages(train.images, train.labels, train.fingerprint())


def describe_reference(experiment: Experiment, splits: Splits) -> str:
    """Return the reference images' source in a few words, without paths."""
    if splits.validation is not None:
        return f"{experiment.data.source}, validation ({splits.validation.share:.0%} of the training images)"
    if splits.hold_out is not None:
        return f"{experiment.data.source}, held out ({splits.hold_out.share:.0%})"
    source = experiment.evaluation.reference or experiment.data
    split = getattr(source, "reference", None) or getattr(source, "reference_split", None)
    return f"{source.source}, {split or 'reference'}"


def load_extractor(
    experiment: Experiment, splits: Splits, root: Storage, on_phase: OnPhase = lambda _line: None
) -> Extractor:
    """Return the extractor of `evaluation.features`, or the one that suits the images.

    It has logits of the data set's own classes if one of `evaluation.metrics` needs them.
    """
    evaluation, reference, cache = experiment.evaluation, splits.reference, cache_folder()
    if not evaluation.uses_features:
        return Nothing()
    config = choose(evaluation.features, experiment.data.image_shape)
    device = choose_device()
    extractor = build_extractor(config, reference, cache, root, device, on_phase)
    for metric in (METRICS[name] for name in evaluation.metrics):
        if metric.needs_own_classes:
            settings = metric.settings_in(evaluation)
            extractor = with_own_classes(
                extractor, reference, cache, root, settings, device, on_phase
            )
    return extractor


def reload_extractor(experiment: Experiment, root: Storage) -> Extractor:
    """Return the same in another process."""
    return load_extractor(experiment, load_splits(experiment, root), root)
