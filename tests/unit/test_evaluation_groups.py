"""Many, medium and few: the four ways to divide classes, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from whipray.trainers.data.groups import GroupsConfig, group_classes
from whipray.trainers.errors import UsageProblem


def test_thirds_are_by_rank() -> None:
    ten = group_classes(range(10, 0, -1), GroupsConfig())
    assert ten == {"many": [0, 1, 2], "medium": [3, 4, 5], "few": [6, 7, 8, 9]}
    hundred = group_classes(range(100, 0, -1), GroupsConfig())
    assert [(g[0], g[-1]) for g in hundred.values()] == [(0, 32), (33, 65), (66, 99)]
    assert group_classes([1, 5, 3], GroupsConfig()) == {"many": [1], "medium": [2], "few": [0]}


def test_thresholds_are_open() -> None:
    config = GroupsConfig(kind="thresholds")
    counts = [101, 100, 20, 19]
    assert group_classes(counts, config) == {"many": [0], "medium": [1, 2], "few": [3]}
    assert group_classes([500, 300], config) == {"many": [0, 1]}  # the others are absent
    with pytest.raises(ValidationError, match="both groups"):
        GroupsConfig(kind="thresholds", many_above=5, few_below=20)


def test_ranges_are_by_class_id() -> None:
    config = GroupsConfig(kind="ranges", borders=(1, 3))
    assert group_classes([1, 9, 90, 7], config) == {"many": [0], "medium": [2, 1], "few": [3]}
    hundred = group_classes(range(100, 0, -1), GroupsConfig(kind="ranges"))
    assert hundred == group_classes(range(100, 0, -1), GroupsConfig())
    with pytest.raises(UsageProblem, match=r"border 66 .* no class of 10 to few"):
        group_classes(range(10), GroupsConfig(kind="ranges"))
    with pytest.raises(ValidationError, match="borders 6, 3 are not in order"):
        GroupsConfig(kind="ranges", borders=(6, 3))


def test_given_classes_are_taken_as_they_are() -> None:
    config = GroupsConfig(kind="given", many=(3, 0), few=(1, 2))
    assert group_classes([1, 9, 10, 7], config) == {"many": [3, 0], "few": [2, 1]}
    with pytest.raises(UsageProblem, match="class 4 is in no group"):
        group_classes([1] * 5, config)
    with pytest.raises(UsageProblem, match="list class 3, which does not exist"):
        group_classes([1] * 3, config)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kind": "given", "many": (0, 1), "few": (1,)}, "class 1 is listed twice"),
        ({"kind": "given"}, "with kind: given, and only then"),
        ({"kind": "thirds", "few": (1,)}, "with kind: given, and only then"),
    ],
)
def test_lists_are_checked(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        GroupsConfig(**settings)


def test_each_says_what_it_is() -> None:
    given = GroupsConfig(kind="given", many=(2, 1, 0), medium=(7,), few=(3, 5, 4, 6, 9))
    assert str(given) == "many: 0-2; medium: 7; few: 3-6, 9"
    others = [
        GroupsConfig(),
        GroupsConfig(kind="thresholds"),
        GroupsConfig(kind="thresholds", few_below=10),
        GroupsConfig(kind="ranges"),
        GroupsConfig(kind="ranges", borders=(3, 6)),
        given,
    ]
    assert len({str(config) for config in others}) == len(others)
    again = GroupsConfig(kind="given", many=(0, 1, 2), medium=(7,), few=(9, 6, 5, 4, 3))
    assert str(again) == str(given)  # the order of a list means nothing
