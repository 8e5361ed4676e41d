"""The feature network on real digits: how good, how repeatable, how it is kept."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from whipray.platform.evaluation.features import FeatureConfig, FeatureNet
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.errors import CheckpointProblem, DataProblem

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FAST = FeatureConfig(epochs=1)


def digits(per_class: int, skip: int = 0) -> PackedImages:
    found = load_digits()
    rows = np.concatenate(
        [np.flatnonzero(found.target == c)[skip : skip + per_class] for c in range(10)]
    )
    images = np.ascontiguousarray((found.images[rows] * 255 / 16).round().astype(np.uint8)[:, None])
    images.flags.writeable = False  # as a memory map is
    return PackedImages(images, found.target[rows].astype(np.int64), NAMES)


@pytest.mark.slow
def test_the_default_network_reads_digits() -> None:
    net = FeatureNet.fit(digits(74), FeatureConfig())
    assert net.card.held_out_accuracy > 0.93
    assert (net.card.images_trained, net.card.images_held_out) == (600, 140)
    unseen = digits(80, skip=74)
    assert (net.extract(unseen.images).predictions == unseen.labels).mean() > 0.9


def test_a_seed_fixes_the_bits_and_leaves_the_global_state() -> None:
    a = FeatureNet.fit(digits(12), FAST)
    torch.rand(3)
    before = torch.random.get_rng_state()
    b = FeatureNet.fit(digits(12), FAST)
    other = FeatureNet.fit(digits(12), FeatureConfig(epochs=1, seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert a.card == b.card
    assert a.card.hash != other.card.hash
    images = digits(3).images
    np.testing.assert_array_equal(a.extract(images).features, b.extract(images, 7).features)


def test_features_are_what_the_metrics_need() -> None:
    reference = digits(12)
    found = FeatureNet.fit(reference, FAST).extract(reference.images)
    assert found.features.shape == (120, 64)
    assert found.features.dtype == np.float64
    np.testing.assert_allclose(found.probabilities.sum(1), 1)


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (3, 64), (1, 28)])
def test_other_sizes(channels: int, size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, channels, size, size), np.uint8)
    reference = PackedImages(images, np.arange(8) % 2, ("a", "b"))
    net = FeatureNet.fit(reference, FeatureConfig(epochs=1, flips=True))
    assert net.extract(images).features.shape == (8, 64)


def test_it_is_trained_once_and_the_first_to_finish_is_kept(tmp_path: Path) -> None:
    reference = digits(12)
    first = FeatureNet.fit_or_load(reference, tmp_path, FAST)
    (folder,) = tmp_path.iterdir()  # nothing half-written beside it
    written = (folder / "network.safetensors").stat().st_mtime_ns
    time.sleep(0.01)
    FeatureNet.fit(reference, FeatureConfig(epochs=1, seed=9)).save(folder)  # lost the race
    again = FeatureNet.fit_or_load(reference, tmp_path, FAST)
    assert again.card == first.card
    assert (folder / "network.safetensors").stat().st_mtime_ns == written
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(
        again.extract(reference.images).features, first.extract(reference.images).features
    )
    FeatureNet.fit_or_load(digits(11), tmp_path, FAST)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "swapped", "card"])
def test_a_damaged_network_is_refused(tmp_path: Path, damage: str) -> None:
    FeatureNet.fit_or_load(digits(12), tmp_path, FAST)
    (folder,) = tmp_path.iterdir()
    weights = folder / "network.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "swapped":
        FeatureNet.fit(digits(12), FeatureConfig(epochs=1, seed=1)).save(tmp_path / "other")
        weights.write_bytes((tmp_path / "other" / "network.safetensors").read_bytes())
    else:
        (folder / "card.json").write_text("{}")
    with pytest.raises(CheckpointProblem, match="delete the folder"):
        FeatureNet.load(folder)


def test_what_it_cannot_use_is_said(tmp_path: Path) -> None:
    reference = digits(12)
    net = FeatureNet.fit_or_load(reference, tmp_path, FAST)
    with pytest.raises(DataProblem, match="float64"):
        net.extract(reference.images.astype(float))
    with pytest.raises(DataProblem, match=r"\(1, 7, 8\)"):
        net.extract(np.ascontiguousarray(reference.images[:, :, 1:]))
    lone = reference.select(np.flatnonzero(reference.labels != 3))
    with pytest.raises(DataProblem, match=r"0 images of class 3 \(three\)"):
        FeatureNet.fit(lone, FAST)
