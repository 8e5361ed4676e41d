"""Several comparisons judged together, so that chance does not make a difference out of their number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Key = TypeVar("Key")


def adjusted(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Return p values, each in [0, 1], for all comparisons together (Holm, Scand. J. Statist. 1979).

    Whatever the number of comparisons, the probability that one or more of those at or below a level are
    false is at most that level.

    Args:
        p_values: of each comparison by itself, in [0, 1].
    """
    result: dict[Key, float] = {}
    largest = 0.0
    for rank, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        result[key] = largest
    return result
