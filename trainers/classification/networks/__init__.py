"""Networks of the classifier: residual networks for small images and for large ones."""

from .base import NAMES, ClassifierNetwork, NetworkName
from .build import build_network

__all__ = ["NAMES", "ClassifierNetwork", "NetworkName", "build_network"]
