"""What each arm of a comparison adds to the real images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import TrivialAugmentWide  # type: ignore[import-untyped]

from whipray.platform.balancing.added_images import augment_real_images, repeat_real_images
from whipray.platform.balancing.augmentation import augment
from whipray.trainers.data import PackedImages
from whipray.trainers.errors import DataProblem
from whipray.trainers.randomness import derive_seed


def images(labels: list[int], channels: int = 1, side: int = 8) -> PackedImages:
    """Random images of four classes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (len(labels), channels, side, side)).astype(np.uint8)
    return PackedImages(pixels, np.array(labels), ("a", "b", "c", "d"))


def test_a_class_is_repeated_by_its_own_images_in_turn() -> None:
    real = images([0, 1, 0, 2, 0])
    copies = repeat_real_images(real, np.array([7, 0, 2, 0]))
    assert copies is not None
    made = copies.make(real, None)
    rows = [0, 2, 4, 0, 2, 4, 0, 3, 3]
    assert (made.images == real.images[rows]).all()
    assert made.labels.tolist() == [0] * 7 + [2] * 2
    assert repeat_real_images(real, np.zeros(4, np.int64)) is None
    with pytest.raises(DataProblem, match="class d has no real image"):
        repeat_real_images(real, np.array([0, 0, 0, 1]))


def test_augmented_copies_are_as_many_and_changed_by_their_seed() -> None:
    real, counts = images([0, 1, 0, 2, 0]), np.array([7, 0, 30, 0])
    copies, first = repeat_real_images(real, counts), augment_real_images(real, counts, 0)
    assert copies is not None
    assert first is not None
    plain, changed = copies.make(real, None), first.make(real, None)
    assert (changed.class_counts == counts).all()
    assert (changed.images == first.make(real, None).images).all()
    assert len(np.unique(changed.images[7:], axis=0)) > 15  # of one real image
    assert (changed.images != plain.images).any()
    other = augment_real_images(real, counts, 1)
    assert other is not None
    assert other.depends_on != first.depends_on
    assert (other.make(real, None).images != changed.images).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_augmented_image_is_torchvision_s_and_a_function_of_seed_class_and_index(
    channels: int,
) -> None:
    some = images([0, 1, 1, 3] * 8, channels, 32)
    before = torch.random.get_rng_state()
    changed = augment(some, 7)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (changed.images.shape, changed.images.dtype) == (some.images.shape, np.uint8)
    seen = [0, 0, 0, 0]
    for row, label in enumerate(some.labels.tolist()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(7, "augmented", label, seen[label]))
            expected = TrivialAugmentWide()(torch.from_numpy(some.images[row]))
        assert (changed.images[row] == expected.numpy()).all()
        seen[label] += 1
    alone = augment(some.select(np.flatnonzero(some.labels == 1)), 7)
    assert (alone.images == changed.images[some.labels == 1]).all()


def test_small_images_stay_in_sight() -> None:
    some = images([0] * 2000)
    black = (augment(some, 0).images == 0).all(axis=(1, 2, 3)).mean()
    shifted_out = 2 / 14 * 1 / 31  # by all of their 8 pixels
    assert black < 2 * shifted_out
