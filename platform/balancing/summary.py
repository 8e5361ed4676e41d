"""Means of the classifiers' metrics with intervals, and paired differences between the arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..evaluation.bootstrap import Estimate, wilson_interval

Arm = Literal["real", "real_repeated", "real_and_generated"]
ARMS: tuple[Arm, ...] = get_args(Arm)
DIFFERENCES: dict[str, Arm] = {"difference": "real", "difference_to_repeated": "real_repeated"}
"""The gains from generated images, each by the arm that they are compared with."""


def summarise(
    outcomes: Mapping[Arm, Sequence[Mapping[str, Any]]],
    groups: Mapping[str, Sequence[int]],
    test_counts: NDArray[np.int64],
    confidence: float,
) -> dict[str, Any]:
    """Return means over the seeds with their intervals, as JSON types.

    With several seeds, they are Student's intervals, which cover what a seed changes (initial
    weights, order, crops) but not the finite number of test images. With one seed, an accuracy
    has Wilson's interval of a proportion of test images; macro precision and recall and
    differences are not proportions, and have none.

    Args:
        outcomes: the outcomes of each arm, all in the same order of seeds; each has `figures`.
        groups: class ids of each group.
        test_counts: (C,) test images of each class.

    Returns:
        `arms`, and the `DIFFERENCES` for which both arms were trained.
    """
    tests = {"overall": int(test_counts.sum())}
    tests |= {name: int(test_counts[list(classes)].sum()) for name, classes in groups.items()}
    columns = {
        arm: _columns([outcome["figures"] for outcome in of_arm])
        for arm, of_arm in outcomes.items()
    }
    one_seed = any(len(of_arm) == 1 for of_arm in outcomes.values())

    def figure(name: str, values: Sequence[float]) -> dict[str, float | None]:
        if not one_seed:
            return _entry(values, student_interval(values, confidence, (0, 1)))
        kind, _, group = name.partition("/")
        if kind != "accuracy":
            return _entry(values, None)
        right = round(values[0] * tests[group])
        return _entry(values, wilson_interval(right, tests[group], confidence))

    return {
        "confidence": confidence,
        "interval": "Wilson's, over test images" if one_seed else "Student's, over seeds",
        "arms": {
            arm: {
                "figures": {name: figure(name, values) for name, values in of_arm.items()},
                "trained": list(outcomes[arm]),
            }
            for arm, of_arm in columns.items()
        },
        **{
            name: _difference(columns[arm], columns["real_and_generated"], confidence)
            for name, arm in DIFFERENCES.items()
            if {arm, "real_and_generated"} <= columns.keys()
        },
    }


def student_interval(
    values: Sequence[float], confidence: float, bounds: tuple[float, float]
) -> Estimate | None:
    """Return the mean with Student's interval, n - 1 degrees of freedom; None for a single value.

    Args:
        bounds: the possible range, to which the interval is cut; of two seeds it is often wider.
    """
    from scipy.stats import t  # type: ignore[import-untyped]

    n = len(values)
    if n < 2:
        return None
    mean = float(np.mean(values))
    half = float(t.ppf((1 + confidence) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Estimate(mean, max(bounds[0], mean - half), min(bounds[1], mean + half))


def _difference(
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    confidence: float,
) -> dict[str, Any]:
    """Return paired differences of each metric; `within_noise` if the interval contains 0."""
    differences = {}
    for name in before:
        change = [b - a for a, b in zip(before[name], after[name], strict=True)]
        interval = student_interval(change, confidence, (-1, 1))
        within = None if interval is None else interval.low <= 0 <= interval.high
        differences[name] = {**_entry(change, interval), "within_noise": within}
    return differences


def _entry(values: Sequence[float], interval: Estimate | None) -> dict[str, float | None]:
    if interval is None:
        return {"value": float(np.mean(values)), "low": None, "high": None}
    return asdict(interval)


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
