"""Samplers: one file each, one contract (`base.py`)."""

from typing import Annotated

from pydantic import Field

from .base import Denoise, Noise, SamplerConfig
from .ddim import DDIMSampler
from .ddpm import DDPMSampler
from .dpmpp_2m import DPMSolver2MSampler
from .heun import HeunSampler
from .unipc import UniPCSampler

AnySampler = Annotated[
    DDPMSampler | DDIMSampler | HeunSampler | DPMSolver2MSampler | UniPCSampler,
    Field(discriminator="name"),
]

__all__ = [
    "AnySampler",
    "DDIMSampler",
    "DDPMSampler",
    "DPMSolver2MSampler",
    "Denoise",
    "HeunSampler",
    "Noise",
    "SamplerConfig",
    "UniPCSampler",
]
