"""autoguidance: away from a worse model that sees the same label, Karras et al. 2024b, eq. 4.

    D = D_own + omega (D_own - D_guide)

Their w is 1 + omega.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ..checkpoint_names import CHECKPOINT_NAME, checkpoint_name
from ..data.groups import GroupsConfig
from .base import GuidanceConfig
from .cfg import ClassifierFree

CHECKPOINT, THETA_G, PRETRAINED = "checkpoint:", "theta_g", "pretrained"


class Autoguidance(GuidanceConfig):
    """Guidance by another model of the same classes and image shape, of whatever process and network."""

    reference: ClassVar[Literal["unconditional", "guide"]] = "guide"
    alternatives: ClassVar[tuple[tuple[str, str], ...]] = (("guide", "content"),)

    name: Literal["autoguidance"] = "autoguidance"
    omega: float = Field(0.0, ge=0)
    """Strength; 0 is plain conditional sampling."""
    guide: str
    """The worse model: an earlier checkpoint of the same run, as the images that it had seen (`12800` or
    `checkpoint:images-000000012800`); `theta_g` of a CALL model; `pretrained`, the model that the run
    started from; or another model, named as `pretrained.model` is."""
    content: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """SHA-256 of the guide's weights; filled in when the guide is looked up."""

    @field_validator("guide", mode="before")
    @classmethod
    def _one_name_of_a_checkpoint(cls, guide: Any) -> Any:
        text = str(guide) if isinstance(guide, int) and not isinstance(guide, bool) else guide
        if isinstance(text, str) and re.fullmatch(rf"({CHECKPOINT})?\d+", text):
            return CHECKPOINT + checkpoint_name(int(text.removeprefix(CHECKPOINT)))
        return text

    @field_validator("guide")
    @classmethod
    def _names_a_model(cls, guide: str) -> str:
        of_checkpoint = guide.removeprefix(CHECKPOINT)
        if guide.startswith(CHECKPOINT) and not CHECKPOINT_NAME.fullmatch(of_checkpoint):
            raise ValueError(f"{of_checkpoint} is no checkpoint: give the images that it had seen")
        if not guide.strip():
            raise ValueError(
                "no model is named: give a checkpoint's images, a run, or models:/NAME"
            )
        return guide

    @property
    def checkpoint(self) -> str | None:
        """Name of the checkpoint of the same run, None for another guide."""
        return self.guide.removeprefix(CHECKPOINT) if self.guide.startswith(CHECKPOINT) else None

    def strengths(self, class_counts: Sequence[int]) -> Tensor:
        """Return omega for each class, (num_classes,) float32."""
        return torch.full((len(class_counts),), self.omega)

    def effective(self, groups: GroupsConfig | None = None) -> GuidanceConfig:  # noqa: ARG002
        """Return cfg where there is no guidance; see `GuidanceConfig`."""
        return self if self.omega else ClassifierFree()

    def identity(self) -> dict[str, Any]:
        """Return the config, of a guide that was looked up not its name; see `GuidanceConfig`."""
        return self.model_dump(mode="json", exclude={"guide"} if self.content else None)

    def facts(self) -> dict[str, Any]:
        """Return the settings, of a guide that was looked up its content too; see `GuidanceConfig`."""
        known = {"guide_content": self.content} if self.content else {}
        return {**self.model_dump(mode="json", exclude={"content"}), **known}

    @property
    def label(self) -> str:
        """The guidance in a few words."""
        return f"omega {self.omega:g} from {self.checkpoint or self.guide}"
