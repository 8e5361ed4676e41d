"""Many, medium and few: classes grouped by how many training images they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from ...trainers.config import Config


class GroupsConfig(Config):
    """How classes are divided."""

    kind: Literal["thirds", "thresholds"] = "thirds"
    """`thirds`: by rank, so that every data set has all three (CALL's fixed split: 0-2, 3-5, 6-9 of
    10 classes; 0-32, 33-65, 66-99 of 100). `thresholds`: by count, as DiffuLT and ImageNet-LT."""

    many_above: int = Field(100, ge=0)
    """With `thresholds`: more training images than this are many."""

    few_below: int = Field(20, ge=0)
    """With `thresholds`: fewer training images than this are few."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.few_below > self.many_above + 1:
            raise ValueError(
                f"few_below {self.few_below} and many_above {self.many_above} overlap: "
                "a class would be in both groups"
            )
        return self

    def __str__(self) -> str:
        if self.kind == "thirds":
            return "thirds by training count"
        return f"many above {self.many_above}, few below {self.few_below} training images"


def group_classes(train_counts: Sequence[int], config: GroupsConfig) -> dict[str, list[int]]:
    """Class ids of each group, head first; a group without classes is absent.

    Args:
        train_counts: training images of each class, by class id.
    """
    head_first = sorted(range(len(train_counts)), key=lambda c: -train_counts[c])
    groups: dict[str, list[int]] = {"many": [], "medium": [], "few": []}
    if config.kind == "thirds":
        third = len(head_first) // 3  # the remainder goes to few, as in CALL's splits
        groups["many"] = head_first[:third]
        groups["medium"] = head_first[third : 2 * third]
        groups["few"] = head_first[2 * third :]
    else:
        for c in head_first:
            if train_counts[c] > config.many_above:
                groups["many"].append(c)
            elif train_counts[c] < config.few_below:
                groups["few"].append(c)
            else:
                groups["medium"].append(c)
    return {name: classes for name, classes in groups.items() if classes}
