"""Crops, mirror images and colours of a classifier's training images, against torchvision's."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv  # type: ignore[import-untyped]

from whipray.trainers.classification.augment import (
    augment,
    crop_and_flip,
    jitter_colours,
    random_windows,
    resized_crop_and_flip,
)
from whipray.trainers.classification.config import ClassificationConfig
from whipray.trainers.randomness import BatchRandom

CPU = torch.device("cpu")


def rows(count: int, first: int = 0, step: int = 0) -> BatchRandom:
    return BatchRandom(0, step, first, count, CPU)


def pictures(count: int, height: int = 9, width: int = 12, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, height, width)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)


def test_crops_are_windows_into_a_black_frame() -> None:
    images = pictures(64, 8, 8, 2)
    framed = F.pad(images, (2, 2, 2, 2))
    crops = crop_and_flip(images, rows(64), 2, flip=True)
    assert crops.dtype == torch.uint8
    seen = set()
    for image, crop in zip(framed, crops, strict=True):
        windows = {
            (y, x, mirrored): window.flip(2) if mirrored else window
            for y in range(5)
            for x in range(5)
            for mirrored in (False, True)
            for window in [image[:, y : y + 8, x : x + 8]]
        }
        (where,) = [place for place, window in windows.items() if torch.equal(window, crop)]
        seen.add(where)
    assert {y for y, _, _ in seen} == {x for _, x, _ in seen} == set(range(5))
    assert {mirrored for _, _, mirrored in seen} == {False, True}
    rng = rows(64)
    assert torch.equal(crop_and_flip(images, rng, 0, flip=False), images)
    later = crop_and_flip(images, rows(64, step=1), 2, flip=True)
    assert not torch.equal(later, crops)


def test_a_resized_crop_is_torchvision_s() -> None:
    images = pictures(200)
    found = resized_crop_and_flip(images, rows(200), flip=True)
    mirrored = 0
    for image, window, got in zip(
        images, random_windows(rows(200), 9, 12).tolist(), found, strict=True
    ):
        # every window is scaled up, where antialiasing has no part
        expected = tv.resized_crop(image.float(), *window, [9, 12], antialias=False)
        if not torch.allclose(got, expected, atol=0.02):
            torch.testing.assert_close(got, expected.flip(2), atol=0.02, rtol=0)
            mirrored += 1
    assert 60 < mirrored < 140
    upright = resized_crop_and_flip(images, rows(200), flip=False)
    assert sum(not torch.equal(a, b) for a, b in zip(found, upright, strict=True)) == mirrored


def test_windows_have_the_area_and_shape_that_they_should() -> None:
    windows = random_windows(rows(4000), 64, 64)
    top, left, tall, wide = windows.unbind(1)
    assert (torch.stack([top, left]) >= 0).all()
    assert (top + tall <= 64).all()
    assert (left + wide <= 64).all()
    area, ratio = tall * wide / 64**2, wide / tall
    assert float(area.min()) == pytest.approx(0.08, abs=0.01)
    assert float(area.max()) == 1
    # uniform in 0.08 .. 1, but for large windows of another shape, which do not fit
    assert float(area.mean()) == pytest.approx(0.5, abs=0.04)
    assert (float(ratio.min()), float(ratio.max())) == pytest.approx((3 / 4, 4 / 3), rel=0.06)
    assert float(ratio.log().mean()) == pytest.approx(0, abs=0.02)
    reach = top[tall < 64] / (64 - tall[tall < 64])
    assert float(reach.mean()) == pytest.approx(0.5, abs=0.03)


def test_where_no_window_fits_it_is_the_whole_image() -> None:
    assert set(map(tuple, random_windows(rows(64), 1, 400).tolist())) == {(0, 0, 1, 400)}


def test_colours_change_as_torchvision_s() -> None:
    images = pictures(12).repeat_interleave(20, 0)
    found = jitter_colours(images, rows(240), 0.4)
    seen = set()
    chance = rows(240).uniform("colours", 4)
    factors = 0.6 + 0.8 * chance[:, :3]
    changes = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)
    for i, image in enumerate(images):
        matching = []
        for order in permutations(range(3)):
            expected = image.double() / 255
            for change in order:
                expected = changes[change](expected, float(factors[i, change]))
            if torch.allclose(found[i].double(), expected * 255, atol=0.01):
                matching.append(order)
        assert matching
        seen.update(matching[:1] if len(matching) == 1 else [])
    assert seen == set(permutations(range(3)))


def test_grey_images_keep_their_saturation() -> None:
    images = pictures(8, channels=1)
    found = jitter_colours(images.repeat(1, 3, 1, 1), rows(8), 0.4)
    torch.testing.assert_close(jitter_colours(images, rows(8), 0.4), found[:, :1], atol=0.1, rtol=0)
    torch.testing.assert_close(found[:, 0], found[:, 2])


@pytest.mark.parametrize("crop", ["padded", "resized"])
def test_an_image_s_changes_depend_on_its_own_row(crop: str) -> None:
    config = ClassificationConfig.model_validate({"crop": crop, "colour_jitter": 0.4})
    images = pictures(16)
    together = augment(images, rows(16), config)
    assert together.shape == images.shape
    torch.testing.assert_close(augment(images[5:9], rows(4, first=5), config), together[5:9])
    assert not torch.equal(augment(images, rows(16, step=1), config), together)
