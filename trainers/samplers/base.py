"""The contract of a sampler: from noise to images by any number of calls of a denoiser.

A sampler needs alpha and sigma of a noise process and nothing else of it, so one that was trained by any
process can be sampled by every sampler; `ddpm` alone needs the steps of vp.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

from torch import Tensor

from ..config import Config
from ..processes import Level, Process, ProcessConfig

Denoise = Callable[[Tensor, Level], Tensor]
"""(x_t (B, C, H, W), level) -> x_0 (B, C, H, W); guidance and clipping are in it."""
Noise = Callable[[int], Tensor]
"""Number -> standard normal noise (B, C, H, W). 0 is that of x_T; a sampler asks for 1, 2, ... at its steps."""


class SamplerConfig(Config, ABC):
    """A sampler is its config: a function of a denoiser and of noise."""

    name: str

    @abstractmethod
    def __call__(self, denoise: Denoise, noise: Noise, process: Process) -> Tensor:
        """Return x_0, (B, C, H, W) float32, not yet clipped."""

    @abstractmethod
    def calls(self, process: ProcessConfig) -> int:
        """Return how often the denoiser is called for an image."""

    def check(self, process: ProcessConfig) -> None:
        """Check that images of a process can be sampled.

        Raises:
            ValueError: they cannot; the message says what can.
        """

    def effective(self, process: ProcessConfig) -> Self:  # noqa: ARG002
        """Return a config of the same images, the same for all configs of these images."""
        return self

    @property
    def label(self) -> str:
        """The sampler in a few words."""
        return self.name
