"""edm: continuous noise with preconditioning, Karras et al. 2022 ("EDM"); a time is sigma itself.

    x_t = x_0 + sigma eps        D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)        (eq. 7)
    c_skip = sd^2 / (sigma^2 + sd^2)        c_out = sigma sd / sqrt(sigma^2 + sd^2)
    c_in = 1 / sqrt(sigma^2 + sd^2)        c_noise = ln(sigma) / 4        sd = sigma_data        (table 1)

Its loss, lambda(sigma) || D - x_0 ||^2 with lambda = 1 / c_out^2, is the mean square of what the network F
says beside what it should say, so that no weight is left:

    (x_0 - c_skip x_t) / c_out = (sigma / sd x_0 - sd eps) / sqrt(sigma^2 + sd^2)        (eq. 8)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..data import PackedImages
from ..data.packed import Images, blocks_of
from ..errors import DataProblem
from ..randomness import BatchRandom
from .base import Process, ProcessConfig, even_in_power, rows

BETA_MIN, BETA_D = 0.1, 19.9
"""Of the continuous variance-preserving process whose discrete form DDPM is (Song et al. 2021)."""
CHUNK_BYTES = 1 << 22
"""Pixels that are measured at a time."""


class EDMConfig(ProcessConfig):
    """Preconditioning, and the noise of training and of sampling."""

    measures: ClassVar[tuple[str, ...]] = ("sigma_data",)
    free: ClassVar[tuple[str, ...]] = ("p_mean", "p_std", "progress", "sigma_min", "sigma_max")

    name: Literal["edm"] = "edm"
    sigma_data: float | None = Field(0.5, gt=0)
    """sd, the standard deviation of the images in [-1, 1]: 0.5 in EDM, which is near that of photographs.
    None: measured on the training images when a training begins, and kept with its checkpoints."""
    p_mean: float = -1.2
    """Mean of ln(sigma) in training; -1.2 in EDM. Classes are decided at high noise, of which this trains
    little: 16 % of rows have sigma > 1, 31 % at -0.8 and 1.6, EDM2's values for ImageNet-64."""
    p_std: float = Field(1.2, gt=0)
    """Standard deviation of ln(sigma) in training."""
    sigma_min: float = Field(0.002, gt=0)
    """The lowest noise that samplers evaluate."""
    sigma_max: float = Field(80.0, gt=0)
    """The highest noise, from which samplers start."""
    progress: Literal["vp", "quantile"] = "vp"
    """How far along a noise level is, which CBDM's weight tau t / T asks for and its paper leaves open here.
    vp: the t / T at which DDPM has the same sigma / alpha, so that an image as noisy weighs as much as there;
    as EDM trains on less noise, the mean weight falls from 0.5 to 0.13. quantile: the share of trained noise
    below it, whose mean is 0.5, as DDPM's, so that tau keeps its size and a level its rank only."""

    @model_validator(mode="after")
    def _ordered(self) -> EDMConfig:
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must be below sigma_max")
        return self

    def measured(self, train: PackedImages) -> Self:
        """Return the config with sigma_data, measured if it is None.

        Raises:
            DataProblem: images of one value, which have none.
        """
        if self.sigma_data is not None:
            return self
        sigma_data = standard_deviation(train.images)
        if sigma_data == 0:
            raise DataProblem(
                "process.sigma_data cannot be measured: all pixels of the training images are the same",
                "check the data, or give process.sigma_data=0.5",
            )
        return self.model_copy(update={"sigma_data": sigma_data})

    def build(self, device: torch.device | str = "cpu") -> EDM:
        """Build the process; sigma_data has to be known."""
        return EDM(self, torch.device(device))


class EDM(Process):
    """A `t` is sigma, float64."""

    def __init__(self, config: EDMConfig, device: torch.device) -> None:
        assert config.sigma_data is not None, "measured() fills it in"
        self.config, self.device, self.sigma_data = config, device, config.sigma_data

    def sample_times(self, rng: BatchRandom) -> Tensor:
        """Sample sigma with ln(sigma) ~ N(p_mean, p_std^2), (B,) float64 (table 1)."""
        z = torch.special.ndtri(rng.uniform("t")[:, 0].clamp(min=2**-53))  # (B,)
        log_sigma: Tensor = self.config.p_mean + self.config.p_std * z
        return log_sigma.exp()

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """Return sigma."""
        return t

    def skip_and_out(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return c_skip and c_out, table 1."""
        sd, total = self.sigma_data, t.square() + self.sigma_data**2
        return sd**2 / total, t * sd / total.sqrt()

    def target(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return what F should say, (B, C, H, W) float32, eq. 8."""
        sd, scale = self.sigma_data, (t.square() + self.sigma_data**2).rsqrt()
        return rows(t / sd * scale) * x_0 - rows(sd * scale) * eps

    def network_input(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return c_in x_t and c_noise, table 1."""
        return rows((t.square() + self.sigma_data**2).rsqrt()) * x_t, (t.log() / 4).float()

    def progress(self, t: Tensor) -> Tensor:
        """Return `EDMConfig.progress` of each sigma."""
        if self.config.progress == "quantile":
            share: Tensor = torch.special.ndtr((t.log() - self.config.p_mean) / self.config.p_std)
            return share
        # sigma^2 = exp(beta_d tau^2 / 2 + beta_min tau) - 1, solved for tau
        root = (BETA_MIN**2 + 2 * BETA_D * torch.log1p(t.square())).sqrt()
        return ((root - BETA_MIN) / BETA_D).clamp(0, 1)

    def time_of(self, ratio: float) -> float:
        """Return sigma, which the ratio is; at most the highest."""
        return min(ratio, self.config.sigma_max)

    def clock(self, steps: int) -> Sequence[float]:
        """Return eq. 5: sigma^(1/7) is even from sigma_max to sigma_min."""
        return even_in_power(self.config.sigma_max, self.config.sigma_min, steps)

    @property
    def ratios(self) -> tuple[float, float]:
        """The smallest and the largest sigma that samplers evaluate."""
        return self.config.sigma_min, self.config.sigma_max


def standard_deviation(images: Images) -> float:
    """Return the standard deviation of all pixels of images in [0, 255], scaled to [-1, 1].

    By counting the 256 values, which is exact and needs no copy of the images in floating point.
    """
    counts = np.zeros(256, dtype=np.int64)
    for block in blocks_of(images):
        pixels = block.reshape(-1)
        for first in range(0, len(pixels), CHUNK_BYTES):
            counts += np.bincount(pixels[first : first + CHUNK_BYTES], minlength=256)
    if np.count_nonzero(counts) == 1:
        return 0.0
    values = np.arange(256) / 127.5 - 1
    mean = np.average(values, weights=counts)
    return math.sqrt(np.average((values - mean) ** 2, weights=counts))
