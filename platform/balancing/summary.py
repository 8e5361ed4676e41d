"""Means of the classifiers' metrics with intervals, and paired differences between the arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.bootstrap import Estimate, wilson_interval
from ..evaluation.holm import adjusted

WITH_GENERATED = ("filtered", "generated")
"""The arms that the others are compared with; a comparison has one of them."""
BASELINES = ("repeated", "random", "augmented", "unfiltered", "real")
"""What they are compared with; repetition, the headline, first."""
HEADLINE = ("accuracy/few", "accuracy/overall")
ROUNDING = 1e-12
"""Of a difference of two accuracies."""

Outcomes = Sequence[Mapping[str, Any]]
"""Of one arm, one for each seed; each has `figures`."""


def summarise(
    outcomes: Mapping[str, Outcomes],
    groups: Mapping[str, Sequence[int]],
    test_counts: NDArray[np.int64],
    confidence: float,
) -> dict[str, Any]:
    """Return means over the seeds with their intervals, as JSON types.

    With several seeds, they are Student's intervals, which cover what a seed changes (initial
    weights, order, crops, and which copies or images an arm takes by chance) but not the finite
    number of test images. With one seed, an accuracy has Wilson's interval of a proportion of test
    images; macro precision and recall and differences are not proportions, and have none.

    Args:
        outcomes: the outcomes of each arm, all in the same order of seeds.
        groups: class ids of each group.
        test_counts: (C,) test images of each class.

    Returns:
        `arms`; `compared`, the arm with generated images, and its `differences` to each of `BASELINES`
        that was trained, each metric with an interval, `within_noise` (the interval contains 0), `p` of
        Student's paired test and `p_holm`, adjusted for the number of baselines; `headline`, a sentence.
    """
    tests = {"overall": _test_images(test_counts)}
    tests |= {name: _test_images(test_counts[list(classes)]) for name, classes in groups.items()}
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
        interval = wilson_interval(right, tests[group], confidence)
        return _entry(values, interval)

    compared = next((arm for arm in WITH_GENERATED if arm in columns), None)
    baselines = [arm for arm in BASELINES if compared and arm in columns]
    differences = {
        arm: _difference(columns[arm], columns[str(compared)], confidence) for arm in baselines
    }
    _adjust(differences)
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
        "compared": compared,
        "differences": differences,
        "headline": _headline(compared, differences.get("repeated"), confidence),
    }


def flat_metrics(document: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return metrics for MLflow: `PREFIX/real/accuracy/few`, `.../few_low`, `PREFIX/filtered-repeated/accuracy/few`.

    Args:
        document: has what `summarise` returns.
    """
    parts = {arm: entry["figures"] for arm, entry in document["arms"].items()}
    for arm, difference in document["differences"].items():
        parts[f"{document['compared']}-{arm}"] = difference
    flat = {}
    for part, figures in parts.items():
        for name, entry in figures.items():
            for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
                if entry[key] is not None:
                    flat[f"{prefix}/{part}/{name}{end}"] = entry[key]
    return flat


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


def student_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p value of Student's paired test; None for a single value."""
    from scipy.stats import t

    n = len(differences)
    if n < 2:
        return None
    mean, error = float(np.mean(differences)), float(np.std(differences, ddof=1) / np.sqrt(n))
    if not error:
        return float(mean == 0)
    return float(2 * t.sf(abs(mean) / error, n - 1))


def _difference(
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    confidence: float,
) -> dict[str, Any]:
    """Return paired differences of each metric; `within_noise` if the interval contains 0.

    Where all seeds have one and the same difference other than 0, they show no spread to compare it with:
    as with a single seed, there is neither an interval nor a verdict. Few test images make that likely.
    """
    differences = {}
    for name in before:
        change = [b - a for a, b in zip(before[name], after[name], strict=True)]
        has_spread = np.ptp(change) > ROUNDING or abs(change[0]) <= ROUNDING
        interval = student_interval(change, confidence, (-1, 1)) if has_spread else None
        within = None if interval is None else interval.low <= 0 <= interval.high
        differences[name] = {
            **_entry(change, interval),
            "by_seed": change,
            "within_noise": within,
            "p": student_p(change) if has_spread else None,
        }
    return differences


def _adjust(differences: Mapping[str, dict[str, Any]]) -> None:
    """Add `p_holm` to each difference: over all baselines, of the same metric."""
    for name in next(iter(differences.values()), ()):
        p = {arm: of_arm[name]["p"] for arm, of_arm in differences.items()}
        known = {arm: value for arm, value in p.items() if value is not None}
        holm = adjusted(known)
        for arm, of_arm in differences.items():
            of_arm[name]["p_holm"] = holm.get(arm)


def _headline(
    compared: str | None, beyond: Mapping[str, Any] | None, confidence: float
) -> str | None:
    """Return what generated images give beyond repetition, as a sentence; None without repetition."""
    if compared is None or beyond is None:
        return None
    parts = [
        f"{name.partition('/')[2]} {_verdict(beyond[name])}" for name in HEADLINE if name in beyond
    ]
    seeds = len(beyond[HEADLINE[-1]]["by_seed"])
    basis = (
        "one seed, which cannot tell a difference from noise"
        if seeds == 1
        else f"{seeds} seeds, paired, {100 * confidence:g} % intervals"
    )
    what = "filtered generated images" if compared == "filtered" else "generated images"
    return f"accuracy that {what} give beyond repeated real ones: {'; '.join(parts)} ({basis})"


def _verdict(entry: Mapping[str, Any]) -> str:
    value = f"{entry['value']:+.3f}"
    if entry["within_noise"] is None:
        return value
    kind = "a gain" if entry["value"] > 0 else "a loss"
    word = "within noise" if entry["within_noise"] else kind
    return f"{value} [{entry['low']:+.3f}, {entry['high']:+.3f}], {word}"


def _test_images(counts: NDArray[np.int64]) -> int:
    """Return how many test images, evenly spread over the classes, would measure as exactly.

    The accuracy is a mean over classes of n_c test images each, whose variance is that of C^2 / sum(1 / n_c)
    images: all of them, where classes have as many.
    """
    tested = counts[counts > 0]
    return round(len(tested) ** 2 / (1 / tested).sum()) if len(tested) else 0


def _entry(values: Sequence[float], interval: Estimate | None) -> dict[str, Any]:
    if interval is None:
        return {"value": float(np.mean(values)), "low": None, "high": None}
    return asdict(interval) | {"value": float(np.mean(values))}


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
