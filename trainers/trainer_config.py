"""Everything a training depends on, composed from the configs that stand beside their code."""

from __future__ import annotations

from pydantic import Field, model_validator

from .augmentations import AnyAugmentation, NoAugmentation
from .backbones import UNetConfig
from .config import Config
from .data import DataConfig
from .diffusion import DiffusionConfig, build_schedule
from .engine import EngineConfig
from .loop import LoopConfig
from .objectives import AnyObjective, DDPMConfig
from .optimizer import OptimizerConfig
from .samplers import SamplingConfig
from .start import StartConfig


class TrainerConfig(Config):
    """One training, whole."""

    seed: int = Field(0, ge=0)
    """Of data order, flips, t, noise, label drops, y' and the initial weights."""
    data: DataConfig
    augmentation: AnyAugmentation = NoAugmentation()
    start: StartConfig | None = None
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

    @model_validator(mode="after")
    def _flips_once(self) -> TrainerConfig:
        if self.augmentation.flips and self.data.flip:
            raise ValueError(
                f"augmentation {self.augmentation.name} mirrors images itself: set data.flip=false"
            )
        return self

    @model_validator(mode="after")
    def _has_reserve(self) -> TrainerConfig:
        if self.sampling.weights == "general" and self.objective.name != "call":
            raise ValueError(
                f"sampling.weights=general: objective {self.objective.name} reserves no capacity, "
                "so there is no theta_g"
            )
        return self

    @model_validator(mode="after")
    def _told_omega(self) -> TrainerConfig:
        if (self.objective.name == "tcfg") != self.model.guidance_embedding:
            needed = "true" if self.objective.name == "tcfg" else "false"
            raise ValueError(
                f"objective {self.objective.name} needs model.guidance_embedding={needed}"
            )
        return self


MAX_SIGNAL = 0.1
"""Largest sqrt(abar_T); the linear schedule at T = 1000 has 0.006."""
