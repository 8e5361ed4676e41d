"""Feature extractors: one file each, one contract, built from their config.

PyTorch and the libraries of the published networks are imported by the extractor that needs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .base import Extractor, OnPhase
from .config import AnyExtractor, ClassifierConfig, InceptionConfig

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
    if isinstance(config, InceptionConfig):
        from .inception import Inception

        return Inception.open(config, cache, device, on_phase)
    from .torchvision_models import TorchvisionModel

    return TorchvisionModel.open(config, device, on_phase)


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
    elif isinstance(config, InceptionConfig):
        from .inception import Inception, has_weights

        if may_fetch or has_weights(config, cache):
            Inception.open(config, cache, cpu, on_phase)
    else:
        from .torchvision_models import TorchvisionModel, check_known, has_published_weights

        check_known(config.model)
        if may_fetch or config.weights or has_published_weights(config.model):
            TorchvisionModel.open(config, cpu, on_phase)
