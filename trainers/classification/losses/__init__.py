"""Losses of the classifier: one file each, one contract (`base.py`)."""

from typing import Annotated

from pydantic import Field

from .balanced_softmax import BalancedSoftmaxConfig
from .base import ClassifierLoss, LossConfig, weighted_loss
from .ce import CrossEntropyConfig
from .drw import DRWConfig
from .focal import FocalLossConfig
from .ldam import LDAMConfig
from .logit_adjustment import LogitAdjustmentConfig

AnyLoss = Annotated[
    CrossEntropyConfig
    | DRWConfig
    | LDAMConfig
    | BalancedSoftmaxConfig
    | LogitAdjustmentConfig
    | FocalLossConfig,
    Field(discriminator="name"),
]

__all__ = [
    "AnyLoss",
    "BalancedSoftmaxConfig",
    "ClassifierLoss",
    "CrossEntropyConfig",
    "DRWConfig",
    "FocalLossConfig",
    "LDAMConfig",
    "LogitAdjustmentConfig",
    "LossConfig",
    "weighted_loss",
]
