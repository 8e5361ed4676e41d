"""Guidance: one file each, one contract (`base.py`)."""

from .base import NULL_LABEL, GuidanceConfig
from .cfg import ClassifierFree
from .guided import Denoiser, guided

AnyGuidance = ClassifierFree

__all__ = ["NULL_LABEL", "AnyGuidance", "ClassifierFree", "Denoiser", "GuidanceConfig", "guided"]
