"""Which extractor computes the features, and its settings; read without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ....trainers.classification.small_resnet_config import SmallResNetConfig
from ....trainers.config import Config


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


def _default_to_classifier(value: Any) -> Any:
    """Add the extractor's name for runs that were saved when there was only one."""
    untagged = isinstance(value, dict) and "extractor" not in value
    return {"extractor": "classifier", **value} if untagged else value


AnyExtractor = Annotated[
    ClassifierConfig | ImagenetConfig | InceptionConfig | TorchvisionConfig,
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
