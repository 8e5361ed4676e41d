"""f_0 of DiffuLT: a classifier that is trained on the long-tailed images alone, and judges generated ones."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import torch

from ...trainers.classification.config import ClassificationConfig
from ...trainers.classification.fit import train_classifier
from ...trainers.classification.losses import CrossEntropyConfig
from ...trainers.classification.trained import TrainedClassifier, load_classifier
from ...trainers.data import PackedImages, Splits
from ...trainers.devices import choose_device
from ...trainers.errors import CheckpointProblem, DataProblem
from ...trainers.scratch import Scratch
from ..evaluation.arrays import Floats, Floats32
from ..generation.shards import short_hash
from ..storage import layout
from ..storage.store import Storage
from .classifiers import ONLY_WITH_ADDED, OnPhase

FORMAT = 1
"""Raise it when the training changes: f_0 is then trained again, and images are scored again."""
SEED = 0

log = logging.getLogger(__name__)


def load_f0(
    root: Storage, splits: Splits, config: ClassificationConfig, on_phase: OnPhase
) -> TrainedClassifier:
    """Return the store's f_0 for these training images and settings, or train it and keep it there.

    It is trained with cross entropy and seed 0, and no test image is read.

    Args:
        root: the store's top.
        splits: `train` is what it is trained on.
        config: how classifiers are trained, `Experiment.effective_classification`.

    Raises:
        DataProblem: images that are too small for the network.
        DivergenceProblem: a loss that is not a number.
    """
    key = f0_key(splits.train, config)
    if (kept := read_f0(root, key)) is not None:
        return kept

    def after_epoch(epoch: int, loss: float, _trained: TrainedClassifier) -> None:
        on_phase(f"training f_0: epoch {epoch + 1} of {config.epochs}, loss {loss:.3f}")

    trained = train_classifier(
        splits.train, _of_f0(config), SEED, choose_device(), after_epoch=after_epoch
    )
    if (kept := read_f0(root, key)) is not None:
        return kept  # of a command that was quicker: both then have the same scores
    with Scratch() as scratch:
        file = Path(scratch) / "f0.safetensors"
        trained.save(file)
        root.put_file(file, layout.classifier_weights(key))
    return trained


def read_f0(root: Storage, key: str) -> TrainedClassifier | None:
    """Return the store's f_0, on this machine's device; None where there is none, or a damaged one."""
    name = layout.classifier_weights(key)
    if not root.exists(name):
        return None
    with Scratch() as scratch:
        file = Path(scratch) / "f0.safetensors"
        root.get_file(name, file)
        try:
            return load_classifier(file, choose_device(), root.uri_of(name))
        except CheckpointProblem as problem:
            log.warning("%s; training it again", problem.what)
            return None


def f0_key(train: PackedImages, config: ClassificationConfig) -> str:
    """Return a hash of all that f_0 depends on."""
    settings = _of_f0(config).model_dump(mode="json", exclude=ONLY_WITH_ADDED)
    return short_hash([FORMAT, train.fingerprint(), settings])


def check_f0(f0: TrainedClassifier, train: PackedImages) -> None:
    """Check that a classifier knows the classes and the shape of the training images.

    Raises:
        DataProblem: it is of other ones.
    """
    fix = "take a classifier that was trained on the same data as the diffusion model"
    if f0.image_shape != train.image_shape:
        raise DataProblem(
            f"the classifier f_0 takes images of {f0.image_shape}, the training images are "
            f"{train.image_shape}",
            fix,
        )
    if (names := tuple(f0.class_names)) != tuple(train.class_names):
        of_both = zip(names, train.class_names, strict=False)
        other = next((f" ({a} is {b})" for a, b in of_both if a != b), "")
        raise DataProblem(
            f"the classifier f_0 knows {len(names)} classes, and not the {train.num_classes} of the "
            f"training images{other}",
            fix,
        )


def fingerprint(f0: TrainedClassifier) -> str:
    """Return a hash of its weights and of what it does to images before, 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps([f0.config.model_dump(mode="json"), f0.class_names]).encode())
    for moment in (f0.normalise.mean, f0.normalise.deviation):
        digest.update(moment.cpu().contiguous().numpy().tobytes())
    for name, tensor in sorted(f0.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def probabilities(f0: TrainedClassifier, features: Floats32) -> Floats:
    """Return the probability of each class, features (n, d) -> (n, C) float64.

    In float64, since thresholds are as low as 5e-7.
    """
    logits = f0.network.head(torch.from_numpy(features).to(f0.device))  # (n, C)
    values: Floats = logits.double().softmax(1).cpu().numpy()
    return values


def _of_f0(config: ClassificationConfig) -> ClassificationConfig:
    return config.model_copy(update={"loss": CrossEntropyConfig()})
