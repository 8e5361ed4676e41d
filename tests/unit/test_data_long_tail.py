"""The cut is LDAM's, count for count and index for index."""

from __future__ import annotations

import numpy as np
import pytest

from whipray.trainers.data.long_tail import LongTail, long_tail_indices
from whipray.trainers.errors import DataProblem

CIFAR10_LT = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


@pytest.mark.parametrize(
    ("classes", "ratio", "total"),
    [
        (10, 100, 12406),
        (10, 50, 13996),
        (10, 10, 20431),
        (100, 100, 10847),
        (100, 50, 12608),
        (100, 10, 19573),
    ],
)
def test_totals_of_the_published_cifar_tails(classes: int, ratio: float, total: int) -> None:
    counts = LongTail(ratio=ratio).counts(50_000, classes)
    assert sum(counts) == total
    assert (counts[0], counts[-1]) == (50_000 // classes, int(50_000 / classes / ratio))
    if (classes, ratio) == (10, 100):
        assert counts == CIFAR10_LT


def test_step_halves_the_classes() -> None:
    assert LongTail(kind="step", ratio=10).counts(200, 4) == [50, 50, 5, 5]


@pytest.mark.parametrize("kind", ["exponential", "step"])
def test_indices_are_those_of_the_global_legacy_generator(kind: str) -> None:
    labels = np.random.default_rng(5).permutation(np.repeat(np.arange(6), 90)).astype(np.int64)
    factor = 1 / 30.0
    before = np.random.get_state()
    try:
        np.random.seed(0)
        expected: list[int] = []
        for c in range(6):
            candidates = [i for i, label in enumerate(labels.tolist()) if label == c]
            shuffled = np.array(candidates)
            np.random.shuffle(shuffled)
            exponent = c / 5.0 if kind == "exponential" else float(c >= 3)
            expected += shuffled.tolist()[: int(90 * factor**exponent)]
    finally:
        np.random.set_state(before)

    cut = long_tail_indices(labels, 6, LongTail(kind=kind, ratio=30))

    assert cut.dtype == np.int64
    assert cut.tolist() == expected


def test_the_global_generator_is_left_alone_and_the_seed_matters() -> None:
    labels = np.repeat(np.arange(3), 50)
    np.random.seed(7)
    first = np.random.rand()
    np.random.seed(7)
    zero = long_tail_indices(labels, 3, LongTail(ratio=5))
    assert np.random.rand() == first
    assert zero.tolist() != long_tail_indices(labels, 3, LongTail(ratio=5), seed=1).tolist()


def test_none_keeps_the_data_as_they_come() -> None:
    labels = np.array([2, 0, 1, 1, 2])
    assert long_tail_indices(labels, 3, LongTail(kind="none")).tolist() == [0, 1, 2, 3, 4]


def test_a_class_that_the_cut_empties_is_named() -> None:
    labels = np.repeat(np.arange(3), 50)
    with pytest.raises(DataProblem, match=r"ratio 100\): class 2 \(newt\) has no image"):
        long_tail_indices(labels, 3, LongTail(ratio=100), class_names=("mouse", "rat", "newt"))


def test_a_class_that_is_empty_from_the_start_is_named() -> None:
    for kind in ("none", "exponential"):
        with pytest.raises(DataProblem, match=r"data: class 1 \(1\) has no image"):
            long_tail_indices(np.array([0, 2, 2]), 3, LongTail(kind=kind, ratio=1))


def test_a_label_outside_the_classes_is_named() -> None:
    with pytest.raises(DataProblem, match="image 2: label 3 is outside the 3 classes"):
        long_tail_indices(np.array([0, 1, 3, 2]), 3, LongTail(kind="none"))
