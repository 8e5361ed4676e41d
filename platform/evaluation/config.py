"""What one evaluation does: how many images, which groups, how sure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...trainers.config import Config
from .features import FeatureConfig
from .groups import GroupsConfig


class EvaluationConfig(Config):
    """Settings of an evaluation; two reports are comparable only if they agree on most of them."""

    images_per_class: int = Field(40, ge=2)
    """Images generated for every class, the same for head and tail. 40 takes seconds for ten small
    classes and shows large differences; 500 and more are worth their time for a final result."""

    batch_size: int = Field(256, ge=1)
    """Images that go through the feature network at a time; changes memory and speed only."""

    bootstrap_resamples: int = Field(200, ge=20)
    """Resamples behind each interval. 200 put the ends of a 95 % interval at the 5th draw."""

    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of every interval."""

    recall_k: int = Field(5, ge=1)
    """Neighbours that set a ball's radius in recall and precision; CBDM uses 5, others use 3."""

    seed: int = Field(0, ge=0)
    """Of the resampling alone: the same images and seed give the same intervals."""

    groups: GroupsConfig = GroupsConfig()
    """How classes are divided into many, medium and few."""

    features: FeatureConfig = FeatureConfig()
    """How the feature network is trained on the reference images."""

    rank_by: str = Field(
        "kid/overall",
        pattern=r"^(kid|fid|recall|precision|agreement)/(overall|many|medium|few)$",
    )
    """The metric that orders models. KID, for its estimate has no bias from the number of images."""

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Whether a lower or a higher `rank_by` is better."""
        return "minimize" if self.rank_by.startswith(("kid/", "fid/")) else "maximize"
