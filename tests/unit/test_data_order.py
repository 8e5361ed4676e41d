"""The order of training images is a pure function of seed and position."""

from __future__ import annotations

import numpy as np
import pytest

from whipray.trainers.data.order import IndexOrder

COUNTS = np.array([400, 100, 25])
LABELS = np.repeat(np.arange(3), COUNTS)[np.argsort(np.arange(525) * 367 % 525)]  # mixed
KINDS = ("natural", "sqrt", "balanced")


@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_is_the_slice_of_a_longer_read(kind: str) -> None:
    whole = IndexOrder(LABELS, 3, kind, seed=3).indices(0, 2000)
    order = IndexOrder(LABELS, 3, kind, seed=3)
    assert whole.shape == (2000,)
    assert whole.dtype == np.int64
    # backwards, over the ends of epochs, longer than an epoch, and nothing at all
    for start, count in ((1500, 17), (520, 10), (0, 1), (100, 1300), (525, 525), (40, 0)):
        assert order.indices(start, count).tolist() == whole[start : start + count].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind: str) -> None:
    first, again, other = (
        IndexOrder(LABELS, 3, kind, seed).indices(10**9, 64).tolist() for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_each_natural_epoch_is_a_fresh_permutation() -> None:
    epochs = IndexOrder(LABELS, 3, "natural", seed=0).indices(0, 3 * 525).reshape(3, 525)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(525))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    moved = np.abs(epochs - np.arange(525)).mean()
    assert moved == pytest.approx(525 / 3, rel=0.1)  # of two uniform numbers in [0, 525)


@pytest.mark.parametrize(("kind", "weights"), [("sqrt", [20, 10, 5]), ("balanced", [1, 1, 1])])
def test_classes_and_images_come_in_the_promised_proportion(kind: str, weights: list[int]) -> None:
    count = 60_000
    sampled = IndexOrder(LABELS, 3, kind, seed=0).indices(0, count)
    share = np.array(weights) / sum(weights)
    seen = np.bincount(LABELS[sampled], minlength=3)
    # 5 standard deviations of a binomial count
    np.testing.assert_array_less(np.abs(seen - count * share), 5 * np.sqrt(count * share))
    expected = count * share[LABELS] / COUNTS[LABELS]  # of each image
    chi_squared = ((np.bincount(sampled, minlength=525) - expected) ** 2 / expected).sum()
    assert chi_squared == pytest.approx(525, abs=5 * np.sqrt(2 * 525))


def test_neighbouring_draws_are_independent() -> None:
    sampled = LABELS[IndexOrder(LABELS, 3, "balanced", seed=0).indices(0, 30_000)]
    pairs = np.bincount(sampled[:-1] * 3 + sampled[1:], minlength=9)
    np.testing.assert_allclose(pairs, 30_000 / 9, rtol=0.08)


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    """Pinned: a resumed run must go on in the order in which it began."""
    assert {
        kind: IndexOrder(LABELS, 3, kind, seed=0).indices(1000, 4).tolist() for kind in KINDS
    } == {
        "natural": [90, 165, 192, 119],
        "sqrt": [279, 199, 429, 243],
        "balanced": [168, 448, 377, 490],
    }
