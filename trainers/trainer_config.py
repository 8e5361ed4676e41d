"""Everything a training depends on, composed from the configs that stand beside their code."""

from __future__ import annotations

from pydantic import Field, model_validator

from .backbones import UNetConfig
from .config import Config
from .data import DataConfig
from .diffusion import DiffusionConfig, build_schedule
from .engine import EngineConfig
from .loop import LoopConfig
from .objectives import AnyObjective, DDPMConfig
from .optimizer import OptimizerConfig
from .samplers import SamplingConfig


class TrainerConfig(Config):
    """One training, whole."""

    seed: int = Field(0, ge=0)
    """Of data order, flips, t, noise, label drops, y' and the initial weights."""
    data: DataConfig
    model: UNetConfig = UNetConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    objective: AnyObjective = DDPMConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    engine: EngineConfig = EngineConfig()
    training: LoopConfig
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="after")
    def _ends_in_noise(self) -> TrainerConfig:
        """Samplers start from pure noise; a short linear schedule leaves the image in x_T."""
        left = float(build_schedule(self.diffusion).signal[-1])
        if left > MAX_SIGNAL:
            raise ValueError(
                f"diffusion: sqrt(abar_T) is {left:.2f}, so x_T is not noise: raise "
                "diffusion.beta_end or diffusion.timesteps"
            )
        return self


MAX_SIGNAL = 0.1
"""Largest sqrt(abar_T); the linear schedule at T = 1000 has 0.006."""
