"""Training losses: one file a method, one contract (`base.py`)."""

from typing import Annotated

from pydantic import Field

from .base import Batch, Loss, Objective, Predictor
from .cbdm import CBDM, CBDMConfig
from .ddpm import DDPM, DDPMConfig

AnyObjective = Annotated[DDPMConfig | CBDMConfig, Field(discriminator="name")]

__all__ = [
    "CBDM",
    "DDPM",
    "AnyObjective",
    "Batch",
    "CBDMConfig",
    "DDPMConfig",
    "Loss",
    "Objective",
    "Predictor",
]
