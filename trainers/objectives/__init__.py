"""Training losses: one file per method, one contract (`base.py`)."""

from typing import Annotated

from pydantic import Field

from .base import Batch, Loss, Objective, Predictor
from .call import CALL, CALLConfig
from .cbdm import CBDM, CBDMConfig
from .ddpm import DDPM, DDPMConfig
from .focal import Focal, FocalConfig
from .oc import OC, OCConfig
from .tcfg import TCFG, TCFGConfig

AnyObjective = Annotated[
    DDPMConfig | CBDMConfig | OCConfig | CALLConfig | FocalConfig | TCFGConfig,
    Field(discriminator="name"),
]

__all__ = [
    "CALL",
    "CBDM",
    "DDPM",
    "OC",
    "TCFG",
    "AnyObjective",
    "Batch",
    "CALLConfig",
    "CBDMConfig",
    "DDPMConfig",
    "Focal",
    "FocalConfig",
    "Loss",
    "OCConfig",
    "Objective",
    "Predictor",
    "TCFGConfig",
]
