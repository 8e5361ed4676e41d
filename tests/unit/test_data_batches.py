"""Gathering, scaling and flipping are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from whipray.trainers.data.batches import gather, to_float, to_uint8
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.global_batches import part_of_many
from whipray.trainers.trainer_config import LoopConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> PackedImages:
    data = load_digits()
    images = (data.images[:, None] * 15).astype(np.uint8)
    return PackedImages(images, data.target.astype(np.int64), tuple("0123456789"))


def test_gather_is_indexing(digits: PackedImages) -> None:
    indices = np.array([5, 0, 5, 1700])
    batch = gather(digits, indices, CPU)
    assert batch.dtype == torch.uint8
    assert batch.numpy().tolist() == digits.images[indices].tolist()
    batch.zero_()
    assert digits.images[5].any()  # a copy: a step cannot change the data


def test_a_model_is_trained_on_a_share_of_the_classes_of_many(digits: PackedImages) -> None:
    counts = digits.class_counts  # 174 to 183
    config = LoopConfig(images=1, share_of_many=0.5, many_above=180)
    part = part_of_many(digits, config, seed=3)
    kept = np.where(counts > 180, np.round(counts / 2), counts)
    assert 0 < (counts > 180).sum() < 10
    assert part.class_counts.tolist() == kept.tolist()
    assert part.fingerprint() == part_of_many(digits, config, seed=3).fingerprint()
    assert part.fingerprint() != part_of_many(digits, config, seed=4).fingerprint()
    whole = config.model_copy(update={"share_of_many": 1.0})
    assert part_of_many(digits, whole, seed=3) is digits


def test_gather_from_a_read_only_map(digits: PackedImages, tmp_path) -> None:
    np.save(tmp_path / "images.npy", digits.images)
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    mapped = PackedImages(images, digits.labels, digits.class_names)
    batch = gather(mapped, np.array([9, 3]), CPU)  # a warning would be an error
    assert batch.numpy().tolist() == digits.images[[9, 3]].tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gather_to_a_gpu(digits: PackedImages) -> None:
    indices = np.arange(64)
    batch = gather(digits, indices, torch.device("cuda"))
    assert batch.is_cuda
    flip = torch.arange(64, device="cuda") % 2 == 0
    there, here = to_float(batch, flip), to_float(gather(digits, indices, CPU), flip.cpu())
    assert torch.equal(there.cpu(), here)


def test_every_byte_survives_the_scale() -> None:
    every_byte = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    scaled = to_float(every_byte, None)
    assert scaled.dtype == torch.float32
    assert (scaled[0, 0, 0, 0].item(), scaled[0, 0, -1, -1].item()) == (-1.0, 1.0)
    exact = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    assert (scaled.flatten() - exact).abs().max() < 1e-7
    assert torch.equal(to_uint8(scaled), every_byte)


def test_to_uint8_clips_and_rounds() -> None:
    values = torch.tensor([-3.0, -1.0, -1 + 1.4 / 127.5, -1 + 1.6 / 127.5, 1.0, 9.0])
    assert to_uint8(values).tolist() == [0, 0, 1, 2, 255, 255]
    assert values[0] == -3.0  # the argument is left as it was


def test_flips_mirror_the_chosen_rows_and_no_other(digits: PackedImages) -> None:
    images = gather(digits, np.arange(8), CPU)
    flip = torch.tensor([True, False, False, True, True, False, True, False])
    plain, flipped = to_float(images, None), to_float(images, flip)
    for row in range(8):
        expected = plain[row].numpy()[:, :, ::-1] if flip[row] else plain[row].numpy()
        assert flipped[row].numpy().tolist() == expected.tolist()
    assert images.numpy().tolist() == digits.images[:8].tolist()
