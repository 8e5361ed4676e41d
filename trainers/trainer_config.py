"""The config of a training, composed from the configs that stand beside their code.

Those that describe the training as a whole stand here, since `loop.py` and `network.py` import this
module: pre-trained weights, LoRA, lengths and intervals.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from .augmentations import AnyAugmentation, NoAugmentation
from .averaging import NO_AVERAGES
from .config import Config
from .data import DataConfig
from .engine_config import EngineConfig
from .guidance.autoguidance import PRETRAINED, THETA_G, Autoguidance
from .networks import AnyNetwork, UNetConfig
from .networks.low_rank import LowRankConfig
from .objectives import AnyObjective, DDPMConfig
from .optimizer import OptimizerConfig
from .processes import AnyProcess, VPConfig
from .sampling import SamplingConfig


class LoRAConfig(LowRankConfig):
    """LoRA's adapters, the general part B^g A^g; the rest of the network is frozen."""

    layers: tuple[str, ...] = Field(("embedding", "down", "middle", "up"), min_length=1)
    """As `LowRankConfig.layers`; the default leaves out `conv_in` and `conv_out`, whose matrices, as wide as
    an image has channels, can have no such rank."""
    rank: int | float = 16


class PretrainedConfig(Config):
    """The model that a training starts from; optimizer and warm-up begin anew."""

    model: str
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION`, a run's `NAME`, a sweep's `SWEEP/NUMBER` or
    `SWEEP/pretrain`, or the path of a folder with an exported model (`./NAME` where it could be taken
    for one of these). Of a run, the averaged weights of its last checkpoint are used."""
    labels: Literal["keep", "new"] = "keep"
    """new: initialise the label embedding anew, for other classes (CBDM table 2, third block)."""
    lora: LoRAConfig | None = None
    """Train low-rank adapters only (CALL section 5.3); None: train everything."""


class LoopConfig(Config):
    """Training length, and the intervals of reports, checkpoints and validation."""

    images: int = Field(ge=1)
    """Training images to see; rounded up to whole batches."""
    batch_size: int = Field(64, ge=1)
    """Images of a global batch, over all workers."""
    micro_batch: int | None = Field(None, ge=1)
    """Images that a worker processes at once; the gradients of its share of a batch are accumulated
    over several. Must divide that share. None: the whole share."""
    report_every_images: int = Field(6_400, ge=1)
    """Interval of reports: losses, learning rate, gradient norm, images per second."""
    checkpoint_every_images: int = Field(640_000, ge=1)
    """Interval of checkpoints and validation losses; the end of the training has one too."""
    report_every_s: float = Field(10.0, ge=0)
    """Least seconds between two reports, by the first worker's clock: intervals that pass earlier have none. The
    first 200 intervals of a training have theirs whatever the clock says, so that a short training has all of them."""
    checkpoint_every_s: float = Field(600.0, ge=0)
    """Least seconds between two checkpoints, in the same way, after the first 20."""
    preview_every_images: int | None = Field(None, ge=0)
    """Interval of previews: images of the ten rarest classes, from fixed noise in at most ten calls of the
    network, by the averaged weights. They change nothing in the training, and need ZeRO 0, 1 or 2. None: eight
    times, or as often as costs at most 1.5 % of the training, which of a very short one is never; 0: never."""
    share_of_many: float = Field(1.0, gt=0, le=1)
    """Share of the images of every class with more than `many_above` training images that the model is trained
    on, chosen by the seed (DiffuLT's table 6). Classifiers and comparisons have all of them."""
    many_above: int = Field(100, ge=1)
    """Training images above which a class counts for `share_of_many`."""
    validation_images: int = Field(512, ge=0)
    """Reference images for the validation loss, evenly spaced over all of them, so that a class with more of them
    counts for more; 0: no such loss."""


class TrainerConfig(Config):
    """One training."""

    seed: int = Field(0, ge=0)
    """Seed of data order, flips, t, noise, label drops, y' and the initial weights."""
    data: DataConfig
    augmentation: AnyAugmentation = NoAugmentation()
    pretrained: PretrainedConfig | None = None
    model: AnyNetwork = UNetConfig()
    process: AnyProcess = VPConfig()
    objective: AnyObjective = DDPMConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    engine: EngineConfig = EngineConfig()
    training: LoopConfig
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="after")
    def _check_sampling(self) -> TrainerConfig:
        self.sampling.check(self.process)
        return self

    @model_validator(mode="after")
    def _check_single_flip(self) -> TrainerConfig:
        if self.augmentation.flips and self.data.flip:
            raise ValueError(
                f"augmentation {self.augmentation.name} mirrors images itself: set data.flip=false"
            )
        return self

    @model_validator(mode="after")
    def _check_theta_g_exists(self) -> TrainerConfig:
        if self.sampling.weights == "general" and self.objective.name != "call":
            raise ValueError(
                f"sampling.weights=general: objective {self.objective.name} reserves no capacity, "
                "so there is no theta_g"
            )
        return self

    @model_validator(mode="after")
    def _check_guide_exists(self) -> TrainerConfig:
        guidance = self.sampling.guidance
        if not isinstance(guidance, Autoguidance):
            return self
        if guidance.guide == THETA_G and self.objective.name != "call":
            raise ValueError(
                f"sampling.guidance.guide={THETA_G}: objective {self.objective.name} reserves no capacity, "
                "so there is no theta_g"
            )
        if guidance.guide == PRETRAINED and self.pretrained is None:
            raise ValueError(
                f"sampling.guidance.guide={PRETRAINED}: the run starts from no other model"
            )
        return self

    @model_validator(mode="after")
    def _check_averages_exist(self) -> TrainerConfig:
        if self.sampling.ema_width is not None and not self.optimizer.ema_profiles:
            raise ValueError(
                f"sampling.ema_width={self.sampling.ema_width:g}: {NO_AVERAGES[0]}: {NO_AVERAGES[1]}"
            )
        return self

    @model_validator(mode="after")
    def _check_omega_input(self) -> TrainerConfig:
        if (self.objective.name == "tcfg") != self.model.guidance_embedding:
            needed = "true" if self.objective.name == "tcfg" else "false"
            raise ValueError(
                f"objective {self.objective.name} needs model.guidance_embedding={needed}"
            )
        return self
