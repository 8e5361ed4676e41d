"""Which extractor computes the features, and its settings; read without PyTorch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ....trainers.classification.small_resnet_config import SmallResNetConfig
from ....trainers.config import Config

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""OWNER/NAME, as the Hugging Face hub takes it."""


class ClassifierConfig(SmallResNetConfig):
    """A small classifier trained on the reference images: needs no download.

    The default for grey images and those under 32 pixels.
    """

    extractor: Literal["classifier"] = "classifier"


class ImagenetConfig(Config):
    """EfficientNet-Lite0 with published ImageNet weights, the same on every machine.

    The default for colour images of 32 pixels and more.
    """

    extractor: Literal["imagenet"] = "imagenet"


class InceptionConfig(Config):
    """Inception-V3 with FID's weights (Heusel et al. 2017), as torch-fidelity converts them."""

    extractor: Literal["inception"] = "inception"

    weights: Path | None = None
    """The weights' file. None: WHIPRAY_INCEPTION_WEIGHTS, else the file in WHIPRAY_CACHE, else
    torch-fidelity's own release is fetched into it."""

    weights_sha256: str = Field("6726825d", pattern=r"^[0-9a-f]{8,64}$")
    """First digits of the file's SHA-256; as published by default."""


class TorchvisionConfig(Config):
    """A classifier of torchvision with its ImageNet weights; features before its last layer."""

    extractor: Literal["torchvision"] = "torchvision"

    model: str = "resnet50"
    """Name of the model, as `torchvision.models.get_model` knows it."""

    weights: Path | None = None
    """A file of its weights. None: those that torchvision calls DEFAULT, from its own cache, else
    fetched into it."""


class Dinov2Config(Config):
    """DINOv2, trained without labels: Fréchet distances as Stein et al. (NeurIPS 2023) compute them."""

    extractor: Literal["dinov2"] = "dinov2"

    model: str = Field("facebook/dinov2-large", min_length=1)
    """A folder with config.json and model.safetensors, or a model's name on the Hugging Face hub, which
    is read from the hub's cache, else fetched into it. The default is ViT-L/14, 1.2 GB."""

    @property
    def folder(self) -> Path | None:
        """The folder that `model` names, which need not exist; None for a name on the hub."""
        path = Path(self.model).expanduser()
        return path if path.is_dir() or not HUB_NAME.fullmatch(self.model) else None


def _default_to_classifier(value: Any) -> Any:
    """Add the extractor's name for runs that were saved when there was only one."""
    untagged = isinstance(value, dict) and "extractor" not in value
    return {"extractor": "classifier", **value} if untagged else value


AnyExtractor = Annotated[
    ClassifierConfig | ImagenetConfig | InceptionConfig | TorchvisionConfig | Dinov2Config,
    Field(discriminator="extractor"),
    BeforeValidator(_default_to_classifier),
]

IMAGENET = "efficientnet-lite0-imagenet"
"""What results call the network of `ImagenetConfig`."""
LEAST_PIXELS = 32
"""Height and width from which colour images have features by `imagenet`: below, there is little in them
that a network of photographs knows."""


def choose(config: AnyExtractor | None, image_shape: tuple[int, int, int]) -> AnyExtractor:
    """Return the extractor of a config; where it names none, the one that suits the images.

    Args:
        config: `evaluation.features`.
        image_shape: (channels, height, width).
    """
    if config is not None:
        return config
    channels, height, width = image_shape
    photographs = channels == 3 and min(height, width) >= LEAST_PIXELS
    return ImagenetConfig() if photographs else ClassifierConfig()
