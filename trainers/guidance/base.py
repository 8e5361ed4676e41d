"""The contract of guidance: a prediction is moved away from that of a reference.

    D = D_own + omega(y, level) (D_own - D_reference)

omega = 0 is no guidance; the other common convention, D_reference + s (D_own - D_reference), has s = 1 +
omega. A network's output, x_0 and eps are affine in one another at a given x_t, so guiding one guides them
all. The reference is the same network without a label (classifier-free) or another model, the guide.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from ..config import Config
from ..data.groups import GroupsConfig
from ..processes import Level, ProcessConfig

NULL_LABEL = -1
"""The label of an unconditional prediction: nothing is added to the embedding."""


class GuidanceConfig(Config, ABC):
    """A guidance is its config: how strong it is, and at which noise."""

    name: str
    reference: ClassVar[Literal["unconditional", "guide"]] = "unconditional"
    strength: ClassVar[tuple[str, ...]] = ("omega",)
    """The fields that `strengths` reads."""

    @abstractmethod
    def strengths(self, class_counts: Sequence[int]) -> Tensor:
        """Return omega of each class, (num_classes,) float32."""

    def active(self, level: Level) -> bool:  # noqa: ARG002
        """Return whether there is guidance at a noise level."""
        return True

    def check(self, process: ProcessConfig) -> None:
        """Check that it fits a process.

        Raises:
            ValueError: it does not.
        """

    def effective(self, groups: GroupsConfig | None = None) -> GuidanceConfig:  # noqa: ARG002
        """Return a config of the same images, the same for all configs of these images.

        Args:
            groups: of classes, where the config itself names none.
        """
        return self

    def identity(self) -> dict[str, Any]:
        """Return what decides the images, as JSON types."""
        return self.model_dump(mode="json")

    def facts(self) -> dict[str, Any]:
        """Return the settings by field, for provenance: one JSON scalar each."""
        return self.model_dump(mode="json")

    @property
    @abstractmethod
    def label(self) -> str:
        """The guidance in a few words."""
