"""ddpm: ancestral sampling over all T steps, Ho et al. 2020, algorithm 2."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..processes import VP, Process, ProcessConfig, VPConfig
from .base import Denoise, Noise, SamplerConfig


class DDPMSampler(SamplerConfig):
    """Ancestral sampling; its steps are those of vp."""

    name: Literal["ddpm"] = "ddpm"
    variance: Literal["fixed_large", "fixed_small"] = "fixed_large"
    """beta_t (as CBDM's released code) or the posterior's."""

    def __call__(self, denoise: Denoise, noise: Noise, process: Process) -> Tensor:
        """Return x_0; see `SamplerConfig`."""
        assert isinstance(process, VP), "check() refuses others"
        betas, abar = process.betas, process.alphas_bar
        abar_prev = torch.cat([abar.new_ones(1), abar[:-1]])
        posterior_variance = betas * (1 - abar_prev) / (1 - abar)  # eq. 7
        variance = betas if self.variance == "fixed_large" else posterior_variance
        x_0_weight = abar_prev.sqrt() * betas / (1 - abar)  # eq. 7
        x_t_weight = (1 - betas).sqrt() * (1 - abar_prev) / (1 - abar)  # eq. 7
        timesteps, x_t = process.config.timesteps, noise(0)
        for i in reversed(range(timesteps)):
            x_0 = denoise(x_t, process.level(i))
            x_t = x_0_weight[i] * x_0 + x_t_weight[i] * x_t
            if i > 0:  # the last step adds no noise
                x_t = x_t + variance[i].sqrt() * noise(timesteps - i)
        return x_t

    def calls(self, process: ProcessConfig) -> int:
        """Return T."""
        return process.timesteps if isinstance(process, VPConfig) else 0

    def check(self, process: ProcessConfig) -> None:
        """Check that the process is vp; see `SamplerConfig`."""
        if not isinstance(process, VPConfig):
            raise ValueError(  # noqa: TRY004  (pydantic reports a ValueError as a problem of the config)
                "sampler ddpm takes the T steps of process vp: set sampling.sampler.name to ddim, heun, "
                "dpmpp_2m or unipc"
            )
