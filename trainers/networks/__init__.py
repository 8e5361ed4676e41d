"""Networks: one file each, one contract (`base.py`)."""

from .base import Network, NetworkConfig
from .unet import UNet, UNetConfig

# A further network is its config in this union: `Annotated[UNetConfig | .., Field(discriminator="name")]`.
AnyNetwork = UNetConfig

__all__ = ["AnyNetwork", "Network", "NetworkConfig", "UNet", "UNetConfig"]
