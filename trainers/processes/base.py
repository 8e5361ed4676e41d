"""The contract of a noise process: how images become noise, and what a network says about it.

    x_t = alpha(t) x_0 + sigma(t) eps        eps ~ N(0, I)

A process says which times are trained on, alpha and sigma, what the network is given, what it should
say, how x_0 follows from that, and how far along a time is. Objectives and samplers know nothing else
of it. A time is a number of the process's own clock: 0 .. T-1 for `vp`, sigma for `edm`, s for `flow`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from ..config import Config
from ..data import PackedImages
from ..randomness import BatchRandom


@dataclass(frozen=True)
class Level:
    """A noise level as samplers go through them, in float64."""

    t: float
    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """Sigma / alpha, the sigma of a process that leaves the image's scale alone; inf where alpha is 0."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def log_snr(self) -> float:
        """Half the log signal-to-noise ratio, ln(alpha / sigma): -inf where alpha is 0, inf where sigma is."""
        return -math.log(self.ratio) if self.ratio else math.inf


class ProcessConfig(Config, ABC):
    """Settings of a noise process."""

    measures: ClassVar[tuple[str, ...]] = ()
    """Fields that are None where they are to be measured on the training images."""
    free: ClassVar[tuple[str, ...]] = ()
    """Fields that do not change what an output of the network means, so that a training may start from a model
    with other values: the noise that is trained on, and that samplers evaluate."""

    def measured(self, train: PackedImages) -> Self:  # noqa: ARG002  (most measure nothing)
        """Return the config with everything filled in that is measured on the training images.

        Raises:
            DataProblem: images on which it cannot be measured.
        """
        return self

    @abstractmethod
    def build(self, device: torch.device | str = "cpu") -> Process:
        """Build the process for times on a device, or on the CPU where `Process` says so."""


class Process(ABC):
    """A noise process. A `t` is (B,) on the process's device; coefficients are float64, in its shape."""

    device: torch.device = torch.device("cpu")

    @abstractmethod
    def sample_times(self, rng: BatchRandom) -> Tensor:
        """Sample the times of training, (B,), on the CPU."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the factor of x_0, float64, in the shape of t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the factor of eps, float64, in the shape of t."""

    @abstractmethod
    def skip_and_out(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return c_skip and c_out of x_0 = c_skip x_t + c_out output, float64, in the shape of t."""

    @abstractmethod
    def target(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return what the network should say, (B, C, H, W) float32.

        An objective that asks for the mean square of the difference to it has the process's own loss.
        """

    @abstractmethod
    def network_input(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network is given: (B, C, H, W) and a time (B,) float32."""

    @abstractmethod
    def progress(self, t: Tensor) -> Tensor:
        """Return how far along each time is, in [0, 1], float64: CBDM's t / T. Also of a `t` on the CPU."""

    @abstractmethod
    def time_of(self, ratio: float) -> float:
        """Return the time at which sigma / alpha has this value, within the process's range."""

    @abstractmethod
    def clock(self, steps: int) -> Sequence[float]:
        """Return `steps` times that are even by the process's own clock, from pure noise on."""

    @property
    @abstractmethod
    def ratios(self) -> tuple[float, float]:
        """The smallest and the largest sigma / alpha that samplers evaluate."""

    # -- what follows from these ------------------------------------------------------------------------

    def perturb(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return x_t, (B, C, H, W) float32.

        Args:
            x_0: images in [-1, 1], (B, C, H, W).
            t: (B,).
            eps: (B, C, H, W).
        """
        return rows(self.alpha(t)) * x_0 + rows(self.sigma(t)) * eps

    def to_x0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the x_0 that an output of the network implies, (B, C, H, W) float32."""
        skip, out = self.skip_and_out(t)
        return rows(skip) * x_t + rows(out) * output

    def eps_per_output(self, t: Tensor) -> Tensor:
        """Return | d eps / d output |, (B,) float64: what a difference of outputs is as one of noises.

        From eps = (x_t - alpha x_0) / sigma and x_0 = c_skip x_t + c_out output.
        """
        _, out = self.skip_and_out(t)
        return self.alpha(t) * out.abs() / self.sigma(t)

    def level(self, t: float) -> Level:
        """Return the noise level at a time."""
        at = torch.tensor(t, dtype=torch.float64, device=self.device)
        return Level(t, float(self.alpha(at)), float(self.sigma(at)))


def even_in_power(high: float, low: float, count: int, rho: float = 7.0) -> list[float]:
    """Return values from high to low whose 1/rho-th powers are even: EDM, eq. 5 without its last 0."""
    first, last = high ** (1 / rho), low ** (1 / rho)
    steps = max(1, count - 1)
    return [(first + i / steps * (last - first)) ** rho for i in range(count)]


def rows(coefficients: Tensor) -> Tensor:
    """Return (B,) float64 coefficients as factors of images, (B, 1, 1, 1) float32."""
    return coefficients.float()[:, None, None, None]
