"""Near copies: changed ones of real images are found, fresh images are not taken for them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pyarrow import parquet
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

from whipray.platform.evaluation.metrics import alignment
from whipray.platform.evaluation.metrics.alignment import aligned, nearest_pairs
from whipray.platform.evaluation.metrics.memorisation import (
    Copies,
    MemorisationConfig,
    NearestImages,
    TrainingImages,
)
from whipray.trainers.errors import DataProblem

SHARED = Path(
    os.environ.get("WHIPRAY_DATA", Path(__file__).resolve().parents[2].parent / "shared/data")
)
RATIO = MemorisationConfig().copy_ratio

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


def whole(images: NDArray[np.floating]) -> Pixels:
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def noisy(images: Pixels, sd: float) -> Pixels:
    return whole(images + np.random.default_rng(0).normal(0, sd, images.shape))


def moved(images: Pixels, down: int, right: int) -> Pixels:
    """The images with edges repeated where nothing is left."""
    reach = max(abs(down), abs(right))
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    height, width = images.shape[2:]
    rows, columns = (slice(reach - d, reach - d + n) for d, n in ((down, height), (right, width)))
    return padded[:, :, rows, columns]


def each(change: Callable[[Image.Image], Image.Image]) -> Callable[[Pixels], Pixels]:
    def changed(images: Pixels) -> Pixels:
        pictures = [change(Image.fromarray(image.transpose(1, 2, 0))) for image in images]
        return np.stack([np.asarray(picture) for picture in pictures]).transpose(0, 3, 1, 2)

    return changed


def compressed(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=50)
    return Image.open(stream).convert("RGB")


def as_training(images: Pixels) -> TrainingImages:
    return TrainingImages(images, np.zeros(len(images), np.int64), "")


@pytest.fixture(scope="module")
def digits() -> tuple[Pixels, Labels, Pixels]:
    """Training images, 100 of a zero down to 10 of a nine, their labels, and fresh images."""
    raw = load_digits()
    pixels = np.rint(raw.images * (255 / 16)).astype(np.uint8)[:, None]
    rows = [np.flatnonzero(raw.target == c) for c in range(10)]
    train = np.concatenate([rows[c][: 100 - 10 * c] for c in range(10)])
    fresh = np.concatenate([rows[c][100:] for c in range(10)])
    return pixels[train], raw.target[train].astype(np.int64), pixels[fresh]


# ---- real images


def test_changed_digits_are_all_found_and_no_fresh_one_is_taken_for_a_copy(
    digits: tuple[Pixels, Labels, Pixels],
) -> None:
    train, labels, fresh = digits
    training = TrainingImages(train, labels, "")
    assert training.pooled == ()
    assert (training.find_nearest(fresh).ratio >= RATIO).all()
    exact = training.find_nearest(train)
    assert (exact.ratio == 0).all()
    assert [exact.how(row) for row in range(len(train))] == [""] * len(train)
    changed = {
        "": noisy(train, 5),
        "mirrored": train[..., ::-1],
        "moved by 1 px": moved(train, 1, -1),
        "mirrored, moved by 1 px": moved(train, 0, 1)[..., ::-1],
    }
    for how, images in changed.items():
        found = training.find_nearest(images)
        assert (found.ratio < RATIO).all()
        np.testing.assert_array_equal(found.nearest, np.arange(len(train)))
        assert np.mean([found.how(row) == how for row in range(len(train))]) > 0.9


def test_changed_photographs_are_found_and_held_out_ones_are_not_taken_for_copies() -> None:
    file = SHARED / "cifar10-lt.parquet"
    if not file.exists():
        pytest.skip(f"{file} is not there; WHIPRAY_DATA may name its folder")
    table = parquet.read_table(file)
    target, split = table["label"].to_numpy(), table["split"].cast(pa.string()).to_numpy()

    def read(where: str, most: int) -> tuple[Pixels, Labels]:
        rows = np.concatenate(
            [np.flatnonzero((split == where) & (target == c))[:most] for c in range(4, 10)]
        )
        pictures = [
            np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            for content in table["image"].take(rows).to_pylist()
        ]
        return np.stack(pictures).transpose(0, 3, 1, 2), target[rows].astype(np.int64)

    train, labels = read("train", 5000)
    training = TrainingImages(train, labels, "")
    fresh, _ = read("test", 40)
    assert (training.find_nearest(fresh).ratio < RATIO).sum() <= 4  # the data repeat some images
    rows = (
        np.linspace(0, len(train) - 1, 40).round().astype(int)
    )  # of a class with 645 and one with 50
    some = train[rows]
    changes: list[Callable[[Pixels], Pixels]] = [
        lambda x: moved(x, 1, 0),
        lambda x: moved(x, -2, 3),
        lambda x: moved(x[..., ::-1], 4, 1),
        each(lambda image: image.crop((2, 3, 28, 29)).resize((32, 32), Image.Resampling.BICUBIC)),
        lambda x: whole(x + 25.0),
        lambda x: whole((x - 128.0) * 0.7 + 128),
        each(lambda image: image.filter(ImageFilter.GaussianBlur(1))),
        each(compressed),
        lambda x: noisy(x, 10),
    ]
    for change in changes:
        found = training.find_nearest(change(some))
        assert (found.ratio < RATIO).mean() >= 0.95
        assert (found.nearest == rows).mean() >= 0.95


# ---- the definition


def likeness(x: Pixels, y: Pixels) -> float:
    """The largest correlation of two images of the same side, up to 32 pixels, by plain loops."""
    side = x.shape[1]
    margin = side // 8
    size = side - 2 * margin
    sigma, flat = 1.5 * side / 32, 10.0**2

    def blurred(image: Pixels, enlarged: int) -> NDArray[np.float64]:
        pixels = torch.from_numpy(image[None].copy()).double()
        if enlarged != side:
            pixels = torch.nn.functional.interpolate(pixels, (enlarged, enlarged), mode="bicubic")
        radius = (0, round(3 * sigma), round(3 * sigma))
        smooth = gaussian_filter(
            pixels[0].numpy(), (0, sigma, sigma), mode="nearest", radius=radius
        )
        return np.rint(smooth)

    middle = blurred(x, side)[:, margin : margin + size, margin : margin + size]
    best = -1.0
    for enlarged in (round(side * f) for f in (1, 16 / 15, 8 / 7, 5 / 4, 4 / 3)):
        other = blurred(y, enlarged)
        for top, left in product(range(enlarged - size + 1), repeat=2):
            window = other[:, top : top + size, left : left + size]
            covariance = ((middle - middle.mean()) * (window - window.mean())).mean()
            scale = (middle.var() + flat) * (window.var() + flat)
            best = max(best, (covariance + flat) / scale**0.5)
    return best


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 20)])
def test_the_distance_is_that_of_the_best_correlation(channels: int, side: int) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(128, 150, (6, channels, side, side))
    images = whole(gaussian_filter(noise, (0, 0, 1, 1)))
    images[5] = 100  # flat
    pairs = np.array([[0, 1], [2, 5], [5, 3]])
    flips = np.array([[False, True], [True, False], [False, False]])
    found = aligned(images[[4, 2, 5]], images, pairs, flips)
    expected = [
        [likeness(x[..., ::-1] if flip else x, images[j]) for j, flip in zip(js, fs, strict=True)]
        for x, js, fs in zip(images[[4, 2, 5]], pairs, flips, strict=True)
    ]
    np.testing.assert_allclose(found.distance, np.sqrt(2 - 2 * np.array(expected)), atol=1e-7)


def test_results_depend_neither_on_blocks_nor_on_what_else_is_compared(
    digits: tuple[Pixels, Labels, Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, labels, fresh = digits
    train = np.concatenate([train, train[:5]])  # ties
    labels = np.concatenate([labels, labels[:5]])
    some = np.concatenate([fresh[:60], train[:9]])
    at_once = TrainingImages(train, labels, "").find_nearest(some)
    for name, size in (("ROWS", 7), ("COLUMNS", 11), ("PAIRS", 3)):
        monkeypatch.setattr(alignment, name, size)
    in_blocks = TrainingImages(train, labels, "").find_nearest(some)
    alone = TrainingImages(train, labels, "").find_nearest(some[8:9])
    for name, values in vars(at_once).items():
        np.testing.assert_array_equal(getattr(in_blocks, name), values)
        np.testing.assert_array_equal(getattr(alone, name), values[8:9])
    np.testing.assert_array_equal(at_once.nearest[-9:], np.arange(9))  # the first of equal ones


def test_images_are_not_compared_with_those_left_out(
    digits: tuple[Pixels, Labels, Pixels],
) -> None:
    train, _, _ = digits
    own = np.arange(len(train))
    nearest, mirrored = nearest_pairs(train, train, 4, left_out=own)
    assert (nearest != own[:, None]).all()
    assert nearest.shape == mirrored.shape == (len(train), 4)
    few, _ = nearest_pairs(train[:3], train[:3], 8, left_out=own[:3])
    assert few.shape == (3, 4)  # two others, upright and mirrored


# ---- usual distances


def test_duplicates_among_training_images_do_not_shrink_the_usual_distance(
    digits: tuple[Pixels, Labels, Pixels],
) -> None:
    zeros = digits[0][:20]
    once = as_training(zeros).usual[0]
    twice = as_training(np.concatenate([zeros, zeros])).usual[0]
    mirrored = as_training(np.concatenate([zeros, zeros[..., ::-1]])).usual[0]
    assert [twice, mirrored] == pytest.approx([once, once], rel=0.1)


def test_a_class_of_few_images_borrows_the_median_of_the_others_and_is_named(
    digits: tuple[Pixels, Labels, Pixels],
) -> None:
    train, labels, _ = digits
    of = [np.flatnonzero(labels == c) for c in range(7)]
    rows = np.concatenate([of[0], of[1], of[2], of[4][:2], of[5][:1], of[6][[0] * 9]])
    training = TrainingImages(train[rows], labels[rows], "")
    assert training.pooled == (4, 5, 6)  # two images, one, and one nine times
    usual = dict(zip(labels[rows].tolist(), training.usual.tolist(), strict=True))
    assert usual[4] == usual[5] == usual[6] == sorted([usual[0], usual[1], usual[2]])[1]
    with pytest.raises(DataProblem, match="no class has 3 different training images"):
        TrainingImages(train[:2], labels[:2], "")


def test_a_class_without_training_images_has_copies_of_others(
    digits: tuple[Pixels, Labels, Pixels],
) -> None:
    train, labels, _ = digits
    found = TrainingImages(train, labels, "").find_nearest(train[labels == 3])
    assert (labels[found.nearest] == 3).all()  # whatever class was asked for
    assert (found.ratio == 0).all()


def test_the_top_pairs_are_the_nearest_with_some_of_each_class_at_most() -> None:
    ratio = np.array([0.3, 0.1, 0.0, 0.2, 0.5, 0.4])
    zero = np.zeros(6, np.int64)
    rest = Copies(zero, ratio, zero > 0, np.zeros((6, 2)), np.ones(6))
    found = NearestImages(**vars(rest), labels=np.array([0, 0, 0, 0, 1, 1]), pooled=())
    assert found.top().tolist() == [2, 1, 3, 0, 5, 4]
    assert found.top(count=3).tolist() == [2, 1, 3]
    assert found.top(count=3, per_class=2).tolist() == [2, 1, 5]


def test_images_of_another_size_are_refused(digits: tuple[Pixels, Labels, Pixels]) -> None:
    with pytest.raises(DataProblem, match=r"\(1, 2, 2\), training images \(1, 8, 8\)"):
        as_training(digits[0]).find_nearest(np.zeros((1, 1, 2, 2), np.uint8))
