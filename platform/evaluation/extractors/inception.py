"""Inception-V3 with the weights of FID: the extractor behind published scores.

The network, its weights (converted from TensorFlow's of 2015-12-05) and the resizing are those of
torch-fidelity, so that FID and KID are the ones that other papers report. Its 1008 logits come
without their bias, as the Inception Score has it.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....trainers.errors import CheckpointProblem, UsageProblem
from .base import ExtractorInfo, OnPhase
from .config import InceptionConfig
from .network import NetworkExtractor, as_rgb
from .weights import Weights, fetch, fitting, read_weights

NAME = "inception-v3-fid"
FILE = "weights-inception-2015-12-05-6726825d.pth"
PUBLISHED = "6726825d"
"""First digits of the SHA-256 of `FILE`, as published."""
VARIABLE = "WHIPRAY_INCEPTION_WEIGHTS"

FEATURES, LOGITS = 2048, 1008
PREPROCESSING = "uint8 RGB; bilinear to 299 x 299 as TensorFlow 1 does; (x - 128) / 128"


class Inception(NetworkExtractor):
    """Features (N, 2048) after the last pooling, logits (N, 1008) without bias."""

    @classmethod
    def open(
        cls,
        config: InceptionConfig,
        cache: Path,
        device: torch.device,
        on_phase: OnPhase = lambda _line: None,
    ) -> Inception:
        """Open the network with its weights, which may be fetched.

        Args:
            cache: folder of the published file.

        Raises:
            CheckpointProblem: no weights, or not those of the config's hash or of this network.
            UsageProblem: torch-fidelity is not installed.
        """
        path = _locate(config, cache, on_phase)
        weights = read_weights(
            path,
            config.weights_sha256,
            f"fetch {FILE} again, or set evaluation.features.weights_sha256 if you mean this file",
        )
        return cls(_network(weights, path), _info(weights.sha256), LOGITS, device)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self._network(as_rgb(images))
        return features, logits


def has_weights(config: InceptionConfig, cache: Path) -> bool:
    """Return whether the weights are to be read from a file, not fetched."""
    return bool(config.weights or os.environ.get(VARIABLE) or (cache / FILE).is_file())


def _locate(config: InceptionConfig, cache: Path, on_phase: OnPhase) -> Path:
    """Return the weights' file: the config's, the environment's, the cache's, or fetched now."""
    if given := config.weights or os.environ.get(VARIABLE):
        path = Path(given).expanduser()
        if not path.is_file():
            source = "evaluation.features.weights" if config.weights else VARIABLE
            raise CheckpointProblem(
                f"{path}: no such file", f"correct {source}, or leave it out to fetch the weights"
            )
        return path
    path = cache / FILE
    if not path.is_file():
        fetch(
            _library().URL_INCEPTION_V3,
            path,
            PUBLISHED,
            f"put {FILE} (SHA-256 {PUBLISHED}...) into {cache}, or set {VARIABLE} to where it is",
            on_phase,
        )
    return path


def _network(weights: Weights, path: Path) -> nn.Module:
    checked = io.BytesIO()  # the library would run what a file has beside weights
    torch.save(weights.tensors, checked)
    checked.seek(0)
    with torch.random.fork_rng(devices=[]), fitting(path, "the Inception-V3 of FID"):
        network: nn.Module = _library().FeatureExtractorInceptionV3(
            NAME, ["2048", "logits_unbiased"], feature_extractor_weights_path=checked
        )
    return network


def _info(sha256: str) -> ExtractorInfo:
    identity = f"{NAME} {sha256} 2048 logits_unbiased {PREPROCESSING}"
    return ExtractorInfo(
        name=NAME,
        hash=hashlib.sha256(identity.encode()).hexdigest()[:16],
        dimensions=FEATURES,
        preprocessing=f"{PREPROCESSING}; grey images three times",
        class_names=None,
        facts={
            "weights_sha256": sha256,
            "as_published": sha256.startswith(PUBLISHED),
            "layer": "2048, after the last pooling",
            "logits": "logits_unbiased, 1008 classes of ImageNet's 2015 network",
        },
    )


def _library() -> Any:
    try:
        from torch_fidelity import (  # type: ignore[import-untyped]
            feature_extractor_inceptionv3,
        )
    except ImportError as error:
        raise UsageProblem(
            "the inception extractor needs torch-fidelity, which is not installed",
            "pip install torch-fidelity, or use evaluation.features.extractor=classifier",
        ) from error
    return feature_extractor_inceptionv3
