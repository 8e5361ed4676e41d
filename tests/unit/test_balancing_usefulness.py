"""Accuracy at a point of a search: only what is lacking is made, and a filter may reject a class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.balancing import trained_source
from support.training import tiny

from whipray.platform.balancing.arms import measure
from whipray.platform.balancing.filling import ImageSource
from whipray.platform.balancing.usefulness import Accuracy, accuracy_at
from whipray.platform.config.experiment import Experiment
from whipray.platform.storage.store import Storage
from whipray.trainers.data import Splits
from whipray.trainers.errors import UsageProblem

POINT = {
    "balancing__to": 12,
    "balancing__seeds": 2,
    "balancing__filter__feature_distance": 1e9,
    "classification__network": "resnet8",
    "classification__epochs": 1,
    "sampling__sampler__steps": 2,
}
GROUPS = ("overall", "many", "medium", "few")


def point(**changes: Any) -> Experiment:
    return tiny(training__images=64, **{**POINT, **changes})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    """A run that was trained for two steps, on digits of which not all are tested."""
    return trained_source(point(), tmp_path_factory.mktemp("store"))


def made(root: Storage, do: Callable[[], Accuracy]) -> tuple[Accuracy, list[str]]:
    """Return what a point comes to, and the kinds of the files that it adds to the store."""
    before = root.list()
    found = do()
    new = sorted(root.list().keys() - before.keys())
    kinds = {
        "scores" if "score" in name else "images" if "/samples/" in name else name.split(".")[-1]
        for name in new
        if "nearest" not in name
    }
    return found, sorted(kinds)


def test_a_point_makes_only_what_is_lacking(source: ImageSource) -> None:
    root = source.store.root

    def at_point(**changes: Any) -> tuple[Accuracy, list[str]]:
        return made(root, lambda: accuracy_at(source, point(**changes)))

    first, kinds = at_point()
    assert kinds == ["images", "json", "safetensors", "scores"]  # with f_0 and two outcomes
    assert first.metrics.keys() == {
        f"accuracy/{group}{end}" for group in GROUPS for end in ("", "_low", "_high")
    }
    for group in GROUPS:
        low, value, high = (
            first.metrics[f"accuracy/{group}{end}"] for end in ("_low", "", "_high")
        )
        assert 0 <= low <= value <= high <= 1
    assert first.warnings == ()
    assert at_point() == (first, [])
    assert at_point(balancing__filter__probability=0.02)[1] == ["json"]
    assert at_point(classification__generated_weight=0.3)[1] == ["json"]
    assert at_point(balancing__to=14)[1] == ["images", "json", "scores"]
    with pytest.raises(UsageProblem, match="every class already has that many"):
        at_point(balancing__to=2)


def test_a_class_that_is_rejected_stays_with_its_real_images(source: ImageSource) -> None:
    strict = point(balancing__filter__pixel_distance=0)
    found = accuracy_at(source, strict)
    (warning,) = found.warnings
    assert "rejects all generated images of 7, 8, 9: real ones alone are left" in warning
    real = measure(
        replace(source, experiment=strict), np.array([0] * 7 + [3, 6, 7]), ["real"], seeds=2
    )
    assert real.trained == 0  # they are the same classifiers
    figure = real.document["arms"]["real"]["figures"]["accuracy/overall"]
    assert found.metrics["accuracy/overall"] == figure["value"]


def test_an_uneven_validation_split_is_measured_class_by_class(source: ImageSource) -> None:
    rows = np.concatenate(
        [np.flatnonzero(source.splits.reference.labels == c)[: 40 - 4 * c] for c in range(10)]
    )
    splits = Splits(source.splits.train, source.splits.reference.select(rows))
    uneven = replace(source, splits=splits)
    one = point(balancing__seeds=1)
    found = accuracy_at(uneven, one).metrics
    measured = measure(
        replace(uneven, experiment=one), np.array([0] * 7 + [3, 6, 7]), ["filtered"], seeds=1
    )
    assert measured.trained == 0
    (outcome,) = measured.document["arms"]["filtered"]["trained"]
    assert found["accuracy/overall"] == pytest.approx(np.mean(outcome["per_class_recall"]))
    assert measured.document["images"]["test"] == [40 - 4 * c for c in range(10)]
    low, value, high = (found[f"accuracy/overall{end}"] for end in ("_low", "", "_high"))
    assert low < value < high
