"""Near copies: planted ones are all found, fresh images hardly flagged."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits

from whipray.platform.evaluation.metrics import memorisation
from whipray.platform.evaluation.metrics.memorisation import (
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


@dataclass(frozen=True)
class Found(NearestImages):
    flagged: NDArray[np.bool_]


def find_copies(
    generated: Pixels,
    generated_labels: Labels,
    train: Pixels,
    train_labels: Labels,
    ratio: float,
    mirrored: bool = False,
) -> Found:
    training = TrainingImages(train, train_labels, "", mirrored)
    nearest, ratios = training.find_nearest(generated)
    return Found(generated_labels, nearest, ratios, training.pooled, mirrored, ratios < ratio)


def noisy(images: Pixels, sd: float) -> Pixels:
    noise = np.random.default_rng(0).normal(0, sd, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def images_at(*values: int) -> Pixels:
    """Images of one pixel, for distances by head."""
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


def labels(*values: int) -> Labels:
    return np.array(values, np.int64)


@pytest.fixture(scope="module")
def digits() -> tuple[Pixels, Labels, Pixels, Labels]:
    """Training images, 100 of a zero down to 10 of a nine, and fresh ones."""
    raw = load_digits()
    pixels = np.rint(raw.images * (255 / 16)).astype(np.uint8)[:, None]
    rows = [np.flatnonzero(raw.target == c) for c in range(10)]
    train = np.concatenate([rows[c][: 100 - 10 * c] for c in range(10)])
    fresh = np.concatenate([rows[c][100:] for c in range(10)])
    target = raw.target.astype(np.int64)
    return pixels[train], target[train], pixels[fresh], target[fresh]


# ---- real images


def test_planted_digits_are_all_found_and_fresh_ones_hardly_flagged(
    digits: tuple[Pixels, Labels, Pixels, Labels],
) -> None:
    train, train_labels, fresh, fresh_labels = digits
    planted = noisy(train, 5)
    both = np.concatenate([fresh, train, planted])
    asked = np.concatenate([fresh_labels, train_labels, train_labels])
    found = find_copies(both, asked, train, train_labels, RATIO)
    new, exact, noised = np.split(np.arange(len(both)), [len(fresh), len(fresh) + len(train)])
    assert found.flagged[new].mean() <= 0.01
    assert found.flagged[exact].all()
    assert (found.ratio[exact] == 0).all()
    np.testing.assert_array_equal(found.nearest[exact], np.arange(len(train)))
    assert found.flagged[noised].all()
    np.testing.assert_array_equal(found.nearest[noised], np.arange(len(train)))
    # the same copies are found when another class was asked for
    other = find_copies(train, (train_labels + 1) % 10, train, train_labels, RATIO)
    np.testing.assert_array_equal(other.nearest, np.arange(len(train)))
    assert other.flagged.all()


def test_planted_cifar_images_are_all_found_and_fresh_ones_hardly_flagged() -> None:
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

    train, train_labels = read("train", 5000)
    fresh, fresh_labels = read("test", 300)
    assert np.bincount(train_labels)[4:].tolist() == [645, 387, 232, 139, 83, 50]
    assert find_copies(noisy(train, 10), train_labels, train, train_labels, RATIO).flagged.all()
    flagged = find_copies(fresh, fresh_labels, train, train_labels, RATIO).flagged
    assert flagged.mean() <= 0.01
    assert flagged[fresh_labels == 9].mean() <= 0.01  # 50 training images


# ---- the definition


@pytest.mark.parametrize("rows", [7, 2048])
def test_nearest_and_ratio_are_those_of_all_distances(
    digits: tuple[Pixels, Labels, Pixels, Labels], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memorisation, "ROWS", rows)  # many blocks, the last one short
    train, train_labels, fresh, fresh_labels = digits
    generator = np.random.default_rng(1)
    order = generator.permutation(len(train))  # classes mixed
    train, train_labels = train[order], train_labels[order]
    found = find_copies(fresh, fresh_labels, train, train_labels, 1.0)
    x, y = (a.reshape(len(a), -1).astype(np.float64) for a in (fresh, train))
    usual = np.empty(len(train))
    for c in range(10):
        own = cdist(y[train_labels == c], y[train_labels == c])
        np.fill_diagonal(own, np.inf)
        usual[train_labels == c] = np.median(own.min(1))
    ratios = cdist(x, y) / usual
    np.testing.assert_array_equal(found.nearest, ratios.argmin(1))
    np.testing.assert_allclose(found.ratio, ratios.min(1))
    np.testing.assert_array_equal(found.flagged, found.ratio < 1)
    assert 0.05 < found.flagged.mean() < 0.95  # the threshold bites here
    assert found.pooled == ()


def test_duplicates_among_training_images_do_not_shrink_the_usual_distance() -> None:
    train = images_at(0, 0, 0, 0, 10, 20, 30)
    found = find_copies(images_at(2), labels(0), train, labels(*[0] * 7), 0.5)
    assert found.ratio.tolist() == [0.2]  # the usual distance is 10


def test_a_class_of_few_images_borrows_the_median_of_the_others_and_is_named() -> None:
    train = images_at(0, 10, 20, 100, 130, 160, 240, 200, 50, 70, 70, 70)
    train_labels = labels(0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 4, 4)
    found = find_copies(
        images_at(1, 101, 201, 51, 71), labels(0, 1, 2, 3, 4), train, train_labels, 1
    )
    assert found.pooled == (2, 3, 4)  # two images, one, and one three times
    np.testing.assert_allclose(found.ratio, [1 / 10, 1 / 30, 1 / 20, 1 / 20, 1 / 20])
    with pytest.raises(DataProblem, match="no class has 3 different training images"):
        find_copies(images_at(1), labels(0), images_at(1, 2), labels(0, 0), 0.5)


def test_a_class_without_training_images_has_copies_of_others() -> None:
    found = find_copies(images_at(5, 5), labels(3, 0), images_at(0, 5, 9), labels(0, 0, 0), 0.5)
    assert found.nearest.tolist() == [1, 1]
    assert found.ratio.tolist() == [0, 0]


def test_mirror_images_are_copies_where_the_model_was_trained_on_them(
    digits: tuple[Pixels, Labels, Pixels, Labels],
) -> None:
    train, train_labels, *_ = digits
    mirrored = train[..., ::-1]
    plain = find_copies(mirrored, train_labels, train, train_labels, RATIO)
    assert plain.flagged.mean() < 0.1
    found = find_copies(mirrored, train_labels, train, train_labels, RATIO, mirrored=True)
    np.testing.assert_array_equal(found.nearest, np.arange(len(train)))
    assert (found.ratio == 0).all()
    upright = find_copies(train, train_labels, train, train_labels, RATIO, mirrored=True)
    np.testing.assert_array_equal(upright.nearest, np.arange(len(train)))


def test_the_top_pairs_are_the_nearest_with_some_of_each_class_at_most() -> None:
    train = images_at(0, 10, 20, 100, 110, 120)
    train_labels = labels(0, 0, 0, 1, 1, 1)
    generated = images_at(13, 1, 0, 12, 104, 103)
    found = find_copies(generated, labels(0, 0, 0, 0, 1, 1), train, train_labels, 0.5)
    assert found.top().tolist() == [2, 1, 3, 0, 5, 4]
    assert found.top(count=3).tolist() == [2, 1, 3]
    assert found.top(count=3, per_class=2).tolist() == [2, 1, 5]


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(DataProblem, match=r"\(1, 2, 2\), training images \(1, 1, 1\)"):
        find_copies(
            np.zeros((1, 1, 2, 2), np.uint8), labels(0), images_at(1, 2, 3), labels(0, 0, 0), 0.5
        )
