"""Networks: one file each, one contract (`base.py`). A further one is its config in `AnyNetwork`."""

from typing import Annotated

from pydantic import Field

from .base import Network, NetworkConfig
from .ddpmpp import DDPMPP, DDPMPPConfig
from .unet import UNet, UNetConfig

AnyNetwork = Annotated[UNetConfig | DDPMPPConfig, Field(discriminator="name")]

__all__ = ["DDPMPP", "AnyNetwork", "DDPMPPConfig", "Network", "NetworkConfig", "UNet", "UNetConfig"]
