"""Samplers: one file each, one contract (`base.py`)."""

from typing import Annotated

from pydantic import Field

from .base import Denoise, Noise, SamplerConfig
from .ddim import DDIMSampler
from .ddpm import DDPMSampler

AnySampler = Annotated[DDPMSampler | DDIMSampler, Field(discriminator="name")]

__all__ = ["AnySampler", "DDIMSampler", "DDPMSampler", "Denoise", "Noise", "SamplerConfig"]
