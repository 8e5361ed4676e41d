"""Many, medium and few: classes grouped by number of training images, by class id or by lists."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from ..config import Config
from ..errors import UsageProblem

NAMES = ("many", "medium", "few")


class GroupsConfig(Config):
    """How classes are divided."""

    kind: Literal["thirds", "thresholds", "ranges", "given"] = "thirds"
    """`thirds`: by rank, so that every data set has all three. `thresholds`: by count, as DiffuLT
    and ImageNet-LT. `ranges`: by class id, whatever the counts, as CALL. `given`: listed."""

    many_above: int = Field(100, ge=0)
    """With `thresholds`: more training images than this are many."""

    few_below: int = Field(20, ge=0)
    """With `thresholds`: fewer training images than this are few."""

    borders: tuple[int, int] = (33, 66)
    """With `ranges`: the first class ids of medium and of few. CALL's are 33 and 66 of 100 classes,
    3 and 6 of 10."""

    many: tuple[int, ...] = ()
    """With `given`: class ids."""

    medium: tuple[int, ...] = ()
    """With `given`: class ids."""

    few: tuple[int, ...] = ()
    """With `given`: class ids. Every class is in exactly one of the three."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.few_below > self.many_above + 1:
            raise ValueError(
                f"few_below {self.few_below} and many_above {self.many_above} overlap: "
                "a class would be in both groups"
            )
        if not 0 <= self.borders[0] <= self.borders[1]:
            raise ValueError(f"borders {self.borders[0]}, {self.borders[1]} are not in order")
        listed = sorted(chain(self.many, self.medium, self.few))
        if (self.kind == "given") != bool(listed):
            raise ValueError("many, medium and few list class ids with kind: given, and only then")
        twice = [c for c, following in pairwise(listed) if c == following]
        if twice:
            raise ValueError(f"class {twice[0]} is listed twice")
        return self

    def __str__(self) -> str:
        if self.kind == "thirds":
            return "thirds by training count"
        if self.kind == "thresholds":
            return f"many above {self.many_above}, few below {self.few_below} training images"
        if self.kind == "ranges":
            return f"classes below {self.borders[0]} many, from {self.borders[1]} few"
        groups = {"many": self.many, "medium": self.medium, "few": self.few}
        return "; ".join(f"{name}: {_spans(ids)}" for name, ids in groups.items() if ids)


def group_classes(train_counts: Sequence[int], config: GroupsConfig) -> dict[str, list[int]]:
    """Return the class ids of each group, head first; a group without classes is absent.

    Args:
        train_counts: training images of each class, by class id.

    Raises:
        UsageProblem: ranges or lists that do not fit this number of classes.
    """
    classes = range(len(train_counts))
    if config.kind == "thirds":
        group_of = _by_rank(train_counts)
    elif config.kind == "thresholds":
        group_of = [
            "many" if n > config.many_above else "few" if n < config.few_below else "medium"
            for n in train_counts
        ]
    elif config.kind == "ranges":
        first, second = config.borders
        if second >= len(classes):
            raise UsageProblem(
                f"border {second} of the groups leaves no class of {len(classes)} to few",
                "give evaluation.groups.borders that lie within the class ids",
            )
        group_of = ["many" if c < first else "medium" if c < second else "few" for c in classes]
    else:
        group_of = _as_listed(classes, config)
    head_first = sorted(classes, key=lambda c: -train_counts[c])
    groups = {name: [c for c in head_first if group_of[c] == name] for name in NAMES}
    return {name: ids for name, ids in groups.items() if ids}


def _by_rank(train_counts: Sequence[int]) -> list[str]:
    head_first = sorted(range(len(train_counts)), key=lambda c: -train_counts[c])
    third = len(head_first) // 3  # the remainder goes to few, as in CALL's splits
    group_of = ["few"] * len(head_first)
    for rank, c in enumerate(head_first[: 2 * third]):
        group_of[c] = "many" if rank < third else "medium"
    return group_of


def _as_listed(classes: range, config: GroupsConfig) -> list[str]:
    lists = {"many": config.many, "medium": config.medium, "few": config.few}
    group_of = {c: name for name, ids in lists.items() for c in ids}
    fix = f"list every class id from 0 to {len(classes) - 1} in evaluation.groups, each once"
    if missing := [c for c in classes if c not in group_of]:
        raise UsageProblem(f"class {missing[0]} is in no group", fix)
    if unknown := [c for c in group_of if c not in classes]:
        raise UsageProblem(f"the groups list class {unknown[0]}, which does not exist", fix)
    return [group_of[c] for c in classes]


def _spans(ids: Sequence[int]) -> str:
    """Return ids in ascending order, neighbours together: `0-2, 5`."""
    runs: list[list[int]] = []
    for c in sorted(ids):
        if runs and runs[-1][-1] == c - 1:
            runs[-1].append(c)
        else:
            runs.append([c])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)
