"""Which generated images are kept, by their scores: DiffuLT's filters, and near copies left out.

An image is kept if it passes every criterion that is set. Only scores are read: a changed threshold
makes no image and asks no network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import numpy as np

from ...trainers.data.report import shown
from ...trainers.errors import UsageProblem, did_you_mean
from ..config.balancing import FilterConfig
from ..config.experiment import Experiment
from ..evaluation.arrays import Bools, Floats, Ints
from ..evaluation.metrics.memorisation import METRIC
from .scores import Scores

DIRECTIONS = {"pixel_distance": "<=", "feature_distance": "<=", "probability": ">="}
"""Criteria, and on which side of its threshold each keeps an image; it keeps the threshold itself."""
NO_COPIES = "no_copies"
FORMS = "'pixel_distance<=3500', 'feature_distance<=9', 'probability>=5e-7' or no_copies"
NAMED = 10
"""Classes that a message names."""
DIGITS = 3
"""Significant ones, of a threshold that a message suggests."""

_WORD = re.compile(r"\s*([^<>=\s]*)\s*([<>=]*)\s*(.*?)\s*")


@dataclass(frozen=True)
class Kept:
    """Which of N generated images are kept, and why the others are not."""

    mask: Bools
    """(N,)."""
    reasons: tuple[str, ...]
    """(N,) every criterion that rejects an image, as `probability 3.1e-09 < 5e-07`; "" of one that is kept."""


@dataclass(frozen=True)
class _Criterion:
    """One criterion that is set, and what it looks at."""

    name: str
    direction: str
    threshold: float
    values: Floats
    """(N,)."""

    @property
    def passed(self) -> Bools:
        """(N,); what is no number does not pass."""
        if self.direction == "<=":
            return self.values <= self.threshold
        return self.values >= self.threshold

    def reason(self, row: int) -> str:
        """Return why it rejects the image at a row."""
        value, sign = float(self.values[row]), ">" if self.direction == "<=" else "<"
        # So many digits that the two differ, as they do not at 3500.0004 > 3500.
        digits = next((d for d in (3, 6, 9) if f"{value:.{d}g}" != f"{self.threshold:.{d}g}"), 17)
        return f"{self.name} {value:.{digits}g} {sign} {self.threshold:.{digits}g}"

    def best(self, rows: Ints) -> float:
        """Return the value nearest to passing of the images at `rows`; NaN where none is a number."""
        values = self.values[rows][~np.isnan(self.values[rows])]
        if not len(values):
            return math.nan
        return float(values.min() if self.direction == "<=" else values.max())


def apply_filter(config: FilterConfig, scores: Scores, labels: Ints, copy_ratio: float) -> Kept:
    """Return which images pass every criterion that is set.

    Args:
        labels: (N,) classes asked for.
        copy_ratio: an image whose ratio is below it is a near copy, `evaluation.memorisation.copy_ratio`.
    """
    criteria = _criteria(config, scores, copy_ratio)
    passed = [criterion.passed for criterion in criteria]
    mask = np.logical_and.reduce(passed) if passed else np.ones(len(labels), np.bool_)
    reasons = [""] * len(labels)
    for row in np.flatnonzero(~mask).tolist():
        failed = (c.reason(row) for c, ok in zip(criteria, passed, strict=True) if not ok[row])
        reasons[row] = "; ".join(failed)
    return Kept(mask, tuple(reasons))


def filter_scores(experiment: Experiment, scores: Scores, labels: Ints) -> Kept:
    """Return which images pass an experiment's `balancing.filter`; `evaluation.memorisation` says what copies are.

    Args:
        labels: (N,) classes asked for.
    """
    copy_ratio = METRIC.settings_in(experiment.evaluation).copy_ratio
    return apply_filter(experiment.balancing.filter, scores, labels, copy_ratio)


def check_every_class_keeps_some(
    kept: Kept, scores: Scores, labels: Ints, class_names: Sequence[str], config: FilterConfig
) -> None:
    """Check that no class is rejected as a whole.

    Args:
        labels: (N,) classes asked for; a class without a generated image loses none.
        class_names: of the classes.
        config: what `kept` was made by.

    Raises:
        UsageProblem: naming each such class, up to `NAMED`, and the values of its best images.
    """
    lost = np.setdiff1d(labels, labels[kept.mask])
    if not len(lost):
        return
    criteria = _criteria(config, scores, math.nan)
    rows = [np.flatnonzero(labels == c) for c in lost]
    best = np.array([[criterion.best(r) for criterion in criteria] for r in rows])
    named = [
        f"{shown(class_names[c])} ("
        + ", ".join(f"{k.name} {v:.3g}" for k, v in zip(criteria, values, strict=True))
        + ")"
        for c, values in zip(lost.tolist()[:NAMED], best, strict=False)
    ]
    more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    fix = "loosen a criterion or leave it out"
    if len(criteria) == 1 and config.near_copies and np.isfinite(best).all():
        only = criteria[0]
        worst = float(best.max() if only.direction == "<=" else best.min())
        bound = f"{only.name}{only.direction}{_loosened(worst, only.direction)}"
        fix = f"from {bound} on every class keeps an image: give that, or less strict"
    raise UsageProblem(
        f"the filter rejects all generated images of {len(lost)} of {len(np.unique(labels))} "
        f"classes; the best values of each: {', '.join(named)}{more}",
        fix,
    )


def random_like(kept: Bools, labels: Ints, seed: int) -> Bools:
    """Return a random subset with as many images of each class as are kept, (N,).

    Args:
        kept: (N,).
        labels: (N,) classes asked for.
        seed: at least 0; decides the subset.
    """
    subset = np.zeros(len(labels), np.bool_)
    for c in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == c)
        rng = np.random.default_rng([seed, c])
        subset[rng.permutation(rows)[: int(kept[rows].sum())]] = True
    return subset


def parse_filter(*words: str) -> FilterConfig:
    """Return the criteria of some `--filter` options; without any, a filter that keeps everything.

    Args:
        words: each one criterion, as `probability>=5e-7` or `no_copies`.

    Raises:
        UsageProblem: naming what is no criterion, or a threshold that it cannot have.
    """
    given: dict[str, float | bool] = {}
    for word in words:
        name, value = _parse(word)
        if name in given:
            raise UsageProblem(f"--filter gives {name} more than once", "give it once")
        given[name] = value
    return FilterConfig.model_validate(given)


def _criteria(config: FilterConfig, scores: Scores, copy_ratio: float) -> list[_Criterion]:
    set_ = [
        _Criterion(name, direction, threshold, getattr(scores, name).astype(np.float64))
        for name, direction in DIRECTIONS.items()
        if (threshold := getattr(config, name)) is not None
    ]
    if not config.near_copies:
        set_.append(_Criterion("copy_ratio", ">=", copy_ratio, scores.copy_ratio))
    return set_


def _parse(word: str) -> tuple[str, float | bool]:
    """Return one field of `FilterConfig` and its value."""
    match = _WORD.fullmatch(word)
    assert match is not None  # each part may be empty
    name, sign, text = match.groups()
    said = f"--filter {shown(word)}"
    if name == NO_COPIES:
        if sign or text:
            raise UsageProblem(f"{said}: {NO_COPIES} takes no number", f"give {NO_COPIES} alone")
        return "near_copies", False
    if name not in DIRECTIONS:
        hint = did_you_mean(name, [*DIRECTIONS, NO_COPIES])
        raise UsageProblem(f"{said}: no such criterion", f"{hint}there are {FORMS}")
    direction = DIRECTIONS[name]
    if not sign:
        # A shell takes an unquoted > for itself, and what is left is the name alone.
        raise UsageProblem(f"{said}: no threshold", f"quote it for the shell: one of {FORMS}")
    if sign != direction:
        keeps = "at most" if direction == "<=" else "at least"
        raise UsageProblem(
            f"{said}: {name} is kept {keeps} at its threshold", f"write '{name}{direction}{text}'"
        )
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    most = 1 if name == "probability" else math.inf
    if not (0 <= value <= most and math.isfinite(value)):
        bounds = "from 0 to 1" if most == 1 else "of at least 0"
        raise UsageProblem(
            f"{said}: {shown(text) or 'nothing'} is no threshold", f"give a number {bounds}"
        )
    return name, value


def _loosened(value: float, direction: str) -> str:
    """Return a threshold of few digits that an image of this value passes."""
    number = Decimal(repr(value))
    if not number:
        return "0"
    step = Decimal(1).scaleb(number.adjusted() - DIGITS + 1)
    rounding = ROUND_CEILING if direction == "<=" else ROUND_FLOOR
    return f"{float(number.quantize(step, rounding)):g}"
