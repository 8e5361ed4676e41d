"""The real images that samples are compared with."""

from __future__ import annotations

import numpy as np

from whipray.platform.generation.loading import balanced
from whipray.trainers.data import PackedImages


def images(counts: list[int]) -> PackedImages:
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return PackedImages(np.ascontiguousarray(pixels), labels, tuple(map(str, range(len(counts)))))


def test_uneven_classes_are_cut_to_the_smallest() -> None:
    uneven = images([5, 50, 9])
    found = balanced(uneven)
    assert found.class_counts.tolist() == [5, 5, 5]
    assert (uneven.labels[found.images.ravel()] == found.labels).all()  # their own, each once
    assert len(np.unique(found.images)) == 15
    assert found.fingerprint() == balanced(uneven).fingerprint()


def test_nearly_even_classes_stay_whole() -> None:
    even = images([70, 80, 84])
    assert balanced(even) is even
