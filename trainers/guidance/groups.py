"""groups: classifier-free guidance with a strength for each group of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..data.groups import GroupsConfig, group_classes
from .base import GuidanceConfig
from .cfg import ClassifierFree


class GroupGuidance(GuidanceConfig):
    """Classes with few images and classes with many may need different strengths."""

    strength: ClassVar[tuple[str, ...]] = ("many", "medium", "few")

    name: Literal["groups"] = "groups"
    many: float = Field(0.0, ge=0)
    """Strength, as of cfg, for the classes with many training images."""
    medium: float = Field(0.0, ge=0)
    """Strength for those between."""
    few: float = Field(0.0, ge=0)
    """Strength for those with few."""
    classes: GroupsConfig | None = None
    """Which classes these are. None: as `evaluation.groups` divides them, so that the groups that are
    guided are those that are reported; filled in when images are generated."""

    def strengths(self, class_counts: Sequence[int]) -> Tensor:
        """Return omega for each class, (num_classes,) float32.

        Raises:
            UsageProblem: groups that do not fit this number of classes.
        """
        assert self.classes is not None, "SamplingConfig.effective fills it in"
        omega = torch.zeros(len(class_counts))
        for group, ids in group_classes(class_counts, self.classes).items():
            omega[ids] = getattr(self, group)
        return omega

    def effective(self, groups: GroupsConfig | None = None) -> GuidanceConfig:
        """Return cfg where all groups have the same strength; see `GuidanceConfig`."""
        if self.many == self.medium == self.few:
            return ClassifierFree(omega=self.many)
        return self if self.classes else self.model_copy(update={"classes": groups})

    def facts(self) -> dict[str, Any]:
        """Return the settings, the groups in words; see `GuidanceConfig`."""
        return {**self.model_dump(mode="json"), "classes": str(self.classes)}

    @property
    def label(self) -> str:
        """The guidance in a few words."""
        return f"omega {self.many:g} many, {self.medium:g} medium, {self.few:g} few"
