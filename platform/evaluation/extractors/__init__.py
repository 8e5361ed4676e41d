"""Feature extractors: one file each, one contract, built from their config.

PyTorch and the libraries of the published networks are imported by the extractor that needs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ....trainers.classification.small_resnet_config import SmallResNetConfig
from ....trainers.errors import DataProblem
from .base import Extractor, OnPhase
from .config import (
    AnyExtractor,
    ClassifierConfig,
    Dinov2Config,
    ImagenetConfig,
    InceptionConfig,
    choose,
)

if TYPE_CHECKING:
    import torch

    from ....trainers.data.packed import PackedImages
    from ...storage.store import Storage


def build_extractor(
    config: AnyExtractor,
    reference: PackedImages,
    cache: Path,
    shared: Storage | None,
    device: torch.device,
    on_phase: OnPhase = lambda _line: None,
) -> Extractor:
    """Build the extractor of a config, ready to use.

    Args:
        reference: real images; the classifier is trained on them, the others ignore them.
        cache: this machine's folder for networks and weights.
        shared: the top of the store that all machines of a project share. They use the classifier in
            it; None: each machine has its own.
        device: where the network runs.
        on_phase: takes a line about what is being done.

    Raises:
        DataProblem: a reference that no classifier can be trained on.
        CheckpointProblem: weights that are missing, damaged or not those expected.
        UsageProblem: an unknown model, or a library that is not installed.
        StorageProblem: `shared` cannot be used.
    """
    if isinstance(config, ClassifierConfig):
        from .classifier import Classifier

        return Classifier.fit_or_load(reference, cache, shared, config, device, on_phase)
    if isinstance(config, ImagenetConfig):
        from .imagenet import Imagenet

        return Imagenet.open(device)
    if isinstance(config, InceptionConfig):
        from .inception import Inception

        return Inception.open(config, cache, device, on_phase)
    if isinstance(config, Dinov2Config):
        from .dinov2 import Dinov2

        return Dinov2.open(config, device, on_phase)
    from .torchvision_models import TorchvisionModel

    return TorchvisionModel.open(config, device, on_phase)


def with_own_classes(
    extractor: Extractor,
    reference: PackedImages,
    cache: Path,
    shared: Storage | None,
    config: SmallResNetConfig,
    device: torch.device,
    on_phase: OnPhase = lambda _line: None,
) -> Extractor:
    """Return an extractor with logits of the data set's own classes, from a classifier beside it if needed.

    Args:
        reference: real images that the classifier is trained on. Where they are too few for that, the
            extractor is returned as it is.
        cache, shared, device, on_phase: as for `build_extractor`.

    Raises:
        CheckpointProblem, StorageProblem: as `build_extractor`.
    """
    if extractor.info.label_network is not None:
        return extractor
    from .classifier import Classifier, check_reference
    from .labelled import Labelled

    try:
        check_reference(reference)
    except DataProblem:
        return extractor  # a report says that label agreement is missing
    settings = ClassifierConfig(**config.model_dump())
    own = Classifier.fit_or_load(reference, cache, shared, settings, device, on_phase)
    return Labelled(extractor, own)


def check_own_classes(config: AnyExtractor, reference: PackedImages) -> None:
    """Check that there will be logits of the data set's own classes.

    Raises:
        DataProblem: too few or too small images for a classifier.
    """
    from .classifier import check_reference

    if not isinstance(config, ClassifierConfig):
        check_reference(reference)


def check_extractor(
    config: AnyExtractor,
    reference: PackedImages | None,
    cache: Path,
    may_fetch: bool,
    on_phase: OnPhase,
) -> None:
    """Check that the extractor of a config can be built; train nothing.

    Args:
        reference: real images, if they can be read.
        cache: as for `build_extractor`.
        may_fetch: fetch published weights that are not here; else nothing is said of these.

    Raises:
        DataProblem, CheckpointProblem, UsageProblem: as `build_extractor`.
    """
    import torch

    cpu = torch.device("cpu")
    if isinstance(config, ClassifierConfig):
        from .classifier import check_reference

        if reference is not None:
            check_reference(reference)
    elif isinstance(config, ImagenetConfig):
        from .imagenet import Imagenet, check_installed

        check_installed()
        if may_fetch:
            Imagenet.open(cpu)
    elif isinstance(config, InceptionConfig):
        from .inception import Inception, has_weights

        if may_fetch or has_weights(config, cache):
            Inception.open(config, cache, cpu, on_phase)
    elif isinstance(config, Dinov2Config):
        from . import dinov2

        dinov2.check_installed()
        if may_fetch or dinov2.has_weights(config):
            dinov2.Dinov2.open(config, cpu, on_phase)
    else:
        from .torchvision_models import TorchvisionModel, check_known, has_published_weights

        check_known(config.model)
        if may_fetch or config.weights or has_published_weights(config.model):
            TorchvisionModel.open(config, cpu, on_phase)


__all__ = [
    "build_extractor",
    "check_extractor",
    "check_own_classes",
    "choose",
    "with_own_classes",
]
