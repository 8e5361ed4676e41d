"""Guidance: one file each, one contract (`base.py`)."""

from typing import Annotated

from pydantic import Field

from .autoguidance import Autoguidance
from .base import NULL_LABEL, GuidanceConfig
from .cfg import ClassifierFree
from .counts import CountGuidance
from .groups import GroupGuidance
from .guided import Denoiser, guided
from .interval import IntervalGuidance

AnyGuidance = Annotated[
    ClassifierFree | IntervalGuidance | Autoguidance | GroupGuidance | CountGuidance,
    Field(discriminator="name"),
]

__all__ = [
    "NULL_LABEL",
    "AnyGuidance",
    "Autoguidance",
    "ClassifierFree",
    "CountGuidance",
    "Denoiser",
    "GroupGuidance",
    "GuidanceConfig",
    "IntervalGuidance",
    "guided",
]
