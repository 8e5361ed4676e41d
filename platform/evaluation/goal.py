"""What models are ordered by: a metric, a group of classes, and which direction is better."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from .metrics import OUTPUTS
from .metrics.base import Better

T = TypeVar("T")


@dataclass(frozen=True)
class Goal:
    """A metric of a group of classes, and whether lower or higher values of it are better."""

    metric: str
    """Name of a metric's output, such as `kid` or `recall`."""
    group: str
    """`overall`, `many`, `medium` or `few`."""
    better: Better

    @classmethod
    def parse(cls, key: str) -> Goal:
        """Return the goal of a key such as `kid/few`.

        Raises:
            KeyError: no metric has this output.
        """
        metric, _, group = key.partition("/")
        return cls(metric, group, OUTPUTS[metric].better)

    def __str__(self) -> str:
        return f"{self.metric}/{self.group}"

    @property
    def sign(self) -> int:
        """The factor that makes lower values better: 1 or -1."""
        return 1 if self.better == "lower" else -1

    @property
    def optuna_direction(self) -> Literal["minimize", "maximize"]:
        """The direction of an Optuna study with this goal."""
        return "minimize" if self.better == "lower" else "maximize"

    def is_better(self, a: float, b: float) -> bool:
        """Return whether the value `a` is better than `b`; equal values are not."""
        return self.sign * a < self.sign * b

    def best(self, points: Iterable[T], value: Callable[[T], float]) -> T:
        """Return the point with the best value, the earliest of equal ones.

        Raises:
            ValueError: there are no points.
        """
        return min(points, key=lambda point: self.sign * value(point))
