"""Weights in the format of torch-fidelity's Inception-V3, made here: none can be fetched."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class _Untrained(FeatureExtractorInceptionV3):
    """Built as always, but not filled from a file."""

    def __init__(self) -> None:
        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        super().__init__("untrained", ["2048"], feature_extractor_weights_path=nothing)

    def load_state_dict(self, *_args: Any, **_options: Any) -> None:
        pass


def write_inception_weights(path: Path, seed: int = 0) -> str:
    """Write random weights under which features differ between images, and so do classes.

    Returns:
        the file's SHA-256, 64 hex digits.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Untrained()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)  # keeps the scale over 94 layers
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.8, 1.2)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.3)  # different images, different classes
        torch.save(network.state_dict(), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
