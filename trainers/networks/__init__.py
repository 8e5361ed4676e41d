"""Networks: one file each, one contract (`base.py`). A further one is its config in `AnyNetwork`."""

from typing import Annotated

from pydantic import Field

from .base import Network, NetworkConfig
from .ddpmpp import DDPMPP, DDPMPPConfig
from .dit import DiT, DiTConfig
from .unet import UNet, UNetConfig
from .vit import ViT, ViTConfig

AnyNetwork = Annotated[
    UNetConfig | DDPMPPConfig | ViTConfig | DiTConfig, Field(discriminator="name")
]

__all__ = [
    "DDPMPP",
    "AnyNetwork",
    "DDPMPPConfig",
    "DiT",
    "DiTConfig",
    "Network",
    "NetworkConfig",
    "UNet",
    "UNetConfig",
    "ViT",
    "ViTConfig",
]
