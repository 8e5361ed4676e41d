"""Networks: (x_t, t, labels) -> prediction."""

from .unet import UNet, UNetConfig

__all__ = ["UNet", "UNetConfig"]
