"""Noise processes: one file each, one contract (`base.py`)."""

from typing import Annotated

from pydantic import Field

from .base import Level, Process, ProcessConfig
from .edm import EDMConfig
from .flow import FlowConfig
from .vp import VP, VPConfig

AnyProcess = Annotated[VPConfig | EDMConfig | FlowConfig, Field(discriminator="name")]

__all__ = [
    "VP",
    "AnyProcess",
    "EDMConfig",
    "FlowConfig",
    "Level",
    "Process",
    "ProcessConfig",
    "VPConfig",
]
