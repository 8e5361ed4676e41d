"""Scores of generated images against an independent float64 reading, and the filters on them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from whipray.platform.balancing.filters import (
    Kept,
    apply_filter,
    check_every_class_keeps_some,
    parse_filter,
    random_like,
)
from whipray.platform.balancing.scores import Scores
from whipray.platform.config.balancing import FilterConfig
from whipray.trainers.errors import UsageProblem


def scores_of(**given: list[float]) -> Scores:
    """Scores of which only the given ones matter."""
    n = len(next(iter(given.values())))
    nothing = np.zeros(n, np.int64)
    values = {
        "pixel_distance": np.full(n, 1.0, np.float32),
        "feature_distance": np.full(n, 1.0, np.float32),
        "probability": np.full(n, 0.5),
        "copy_ratio": np.ones(n),
    } | {name: np.array(column) for name, column in given.items()}
    return Scores(nearest_pixels=nothing, nearest_features=nothing, copy_of=nothing, **values)  # type: ignore[arg-type]


def filtered(config: FilterConfig, scores: Scores, labels: list[int] | None = None) -> Kept:
    n = len(scores.probability)
    return apply_filter(config, scores, np.array(labels or [0] * n), 0.4)


def test_a_threshold_keeps_what_lies_on_it_and_says_why_it_rejects() -> None:
    scores = scores_of(
        probability=[5e-7, 3.1e-9, 1.0, math.nan],
        pixel_distance=[3500.0, 3500.0, 3500.00025, 10.0],
        copy_ratio=[0.4, 0.4, 0.4, 0.31],
    )
    kept = filtered(FilterConfig(probability=5e-7, pixel_distance=3500, near_copies=False), scores)
    assert kept.mask.tolist() == [True, False, False, False]
    assert kept.reasons == (
        "",
        "probability 3.1e-09 < 5e-07",
        "pixel_distance 3500.00025 > 3500",
        "probability nan < 5e-07; copy_ratio 0.31 < 0.4",
    )
    assert filtered(FilterConfig(), scores).mask.all()


def test_a_class_without_a_kept_image_is_named_with_its_best_value() -> None:
    labels = [0, 0, 2, 2, 5]
    scores = scores_of(probability=[1e-9, 0.9, 1e-9, 3.1492e-8, 7.7e-9])
    config = FilterConfig(probability=5e-7)
    kept = filtered(config, scores, labels)
    names = [f"c{c}" for c in range(6)]
    with pytest.raises(UsageProblem) as raised:
        check_every_class_keeps_some(kept, scores, np.array(labels), names, config)
    assert raised.value.what == (
        "the filter rejects all generated images of 2 of 3 classes; the best values of each: "
        "c2 (probability 3.15e-08), c5 (probability 7.7e-09)"
    )
    assert "probability>=7.7e-09" in raised.value.fix
    looser = FilterConfig(probability=7.7e-9)
    check_every_class_keeps_some(
        filtered(looser, scores, labels), scores, np.array(labels), names, looser
    )


def test_the_threshold_that_is_suggested_keeps_an_image_of_every_class() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 3)
    for name, strict in (("probability", 1.0), ("pixel_distance", 0.0)):
        scores = scores_of(**{name: rng.random(120) ** 9})  # type: ignore[arg-type]
        config = FilterConfig(**{name: strict})  # type: ignore[arg-type]
        with pytest.raises(UsageProblem, match="and 30 more") as raised:
            check_every_class_keeps_some(
                apply_filter(config, scores, labels, 0.4),
                scores,
                labels,
                [str(c) for c in range(40)],
                config,
            )
        suggested = parse_filter(raised.value.fix.split()[1])
        kept = apply_filter(suggested, scores, labels, 0.4)
        assert len(np.unique(labels[kept.mask])) == 40
        assert not kept.mask.all()


def test_a_random_subset_has_the_filter_s_number_of_each_class() -> None:
    rng = np.random.default_rng(1)
    labels = np.sort(rng.integers(0, 7, 500))
    kept = rng.random(500) < 0.3
    kept[labels == 4] = False
    subset = random_like(kept, labels, 0)
    assert (
        np.bincount(labels[subset], minlength=7) == np.bincount(labels[kept], minlength=7)
    ).all()
    assert (subset == random_like(kept, labels, 0)).all()
    assert (subset != random_like(kept, labels, 1)).any()
    assert (subset & kept).any()
    assert (subset & ~kept).any()  # whatever the filter says of each


def test_filters_are_read_as_they_are_written() -> None:
    assert parse_filter() == FilterConfig()
    assert parse_filter(
        "probability>=5e-7", " feature_distance <= 9 ", "no_copies"
    ) == FilterConfig(probability=5e-7, feature_distance=9, near_copies=False)


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        (
            ["probabilty>=1"],
            "--filter probabilty>=1: no such criterion",
            "did you mean probability? ",
        ),
        (["probability<=1"], "is kept at least at its threshold", "write 'probability>=1'"),
        (["pixel_distance>=3"], "is kept at most at its threshold", "write 'pixel_distance<=3'"),
        (["probability>0.5"], "is kept at least", "write 'probability>=0.5'"),
        (["probability"], "--filter probability: no threshold", "quote it for the shell"),
        (["probability>=2"], "2 is no threshold", "give a number from 0 to 1"),
        (["probability>=nan"], "nan is no threshold", "give a number from 0 to 1"),
        (["pixel_distance<=-1"], "-1 is no threshold", "give a number of at least 0"),
        (["feature_distance<=inf"], "inf is no threshold", "give a number of at least 0"),
        (["feature_distance<="], "nothing is no threshold", "give a number of at least 0"),
        (["no_copies>=1"], "no_copies takes no number", "give no_copies alone"),
        ([""], "no such criterion", "there are"),
        (["probability>=0.1", "probability>=0.2"], "probability more than once", "give it once"),
    ],
)
def test_a_filter_that_is_none_is_refused_in_one_line(
    words: list[str], what: str, fix: str
) -> None:
    with pytest.raises(UsageProblem) as raised:
        parse_filter(*words)
    assert what in raised.value.what
    assert fix in raised.value.fix
    assert "\n" not in str(raised.value)
