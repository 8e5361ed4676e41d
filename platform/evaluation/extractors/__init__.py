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
