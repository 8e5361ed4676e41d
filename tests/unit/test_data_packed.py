"""Packed images are checked at birth; decoding happens once and leaves nothing half done."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from whipray.trainers.data import decoded, decoding
from whipray.trainers.data.decoding import decode
from whipray.trainers.data.encoded import EncodedImages
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.data.source import Splits
from whipray.trainers.disk import DiskProblem
from whipray.trainers.errors import DataProblem

DIGITS = (load_digits().images * 15).astype(np.uint8)  # (1797, 8, 8)
NAMES = ("zero", "one", "two")


def packed(labels: list[int], names: tuple[str, ...] = NAMES) -> PackedImages:
    images = np.ascontiguousarray(DIGITS[: len(labels), None])
    return PackedImages(images, np.array(labels, dtype=np.int64), names)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def encoded(count: int = 5) -> EncodedImages:
    items = [encode(DIGITS[i]) for i in range(count)]
    return EncodedImages(items, np.zeros(count, dtype=np.int64), "row {}".format)


def test_counts_selection_and_shape() -> None:
    images = packed([2, 0, 2, 1, 2], ("a", "b", "c", "d"))
    assert images.class_counts.tolist() == [1, 1, 3, 0]
    assert (images.num_classes, images.image_shape) == (4, (1, 8, 8))
    chosen = images.select(np.array([4, 1]))
    assert chosen.labels.tolist() == [2, 0]
    assert chosen.images.tolist() == DIGITS[[4, 1], None].tolist()


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_outside_the_classes_is_named(label: int) -> None:
    with pytest.raises(DataProblem, match=f"image 2: label {label} is outside the 3 classes"):
        packed([0, 1, label, 2])


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 1, 8, 8), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 1, 8, 8), np.uint8), np.zeros(2, np.int32)),
        (np.zeros((2, 1, 8, 8), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 8, 8), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 8, 8, 3), np.uint8).transpose(0, 3, 1, 2), np.zeros(2, np.int64)),
        (np.zeros((0, 1, 8, 8), np.uint8), np.zeros(0, np.int64)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(images: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(DataProblem):
        PackedImages(images, labels, NAMES)


def test_the_fingerprint_follows_the_content_alone(tmp_path) -> None:
    images = packed([0, 1, 2, 2])
    np.save(tmp_path / "images.npy", images.images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    same = PackedImages(mapped, images.labels.copy(), NAMES)
    pixel = images.images.copy()
    pixel[3, 0, 7, 7] ^= 1
    others = [
        PackedImages(pixel, images.labels, NAMES),
        packed([0, 1, 2, 1]),
        packed([0, 1, 2, 2], ("zero", "one", "three")),
        PackedImages(images.images.reshape(4, 1, 4, 16), images.labels, NAMES),
    ]
    prints = {image.fingerprint() for image in (images, same, *others)}
    assert images.fingerprint() == same.fingerprint()
    assert len(prints) == 5
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)


def test_splits_agree_and_have_every_class() -> None:
    whole = packed([0, 1, 2])
    with pytest.raises(DataProblem, match=r"reference images: class 1 \(one\) has no image"):
        Splits(whole, packed([0, 0, 2]))
    with pytest.raises(DataProblem, match="different classes"):
        Splits(whole, packed([0, 1, 2], ("zero", "one", "due")))
    taller = PackedImages(whole.images.reshape(3, 1, 16, 4), whole.labels, NAMES)
    with pytest.raises(DataProblem, match=r"\(1, 8, 8\), reference images \(1, 16, 4\)"):
        Splits(whole, taller)


def pixels_of(
    encoded: EncodedImages, size: int, channels: Literal[1, 3], cache: Path
) -> np.ndarray:
    return decode(encoded, size, channels, cache).pixels


def test_decoding_gives_the_pixels_and_a_read_only_map(tmp_path) -> None:
    pixels = pixels_of(encoded(), 8, 1, tmp_path / "new" / "cache")
    assert pixels.tolist() == DIGITS[:5, None].tolist()
    assert not pixels.flags.writeable
    in_colour = pixels_of(encoded(), 8, 3, tmp_path)
    assert in_colour.tolist() == np.repeat(DIGITS[:5, None], 3, axis=1).tolist()


def test_other_sizes_are_cropped_at_the_centre_and_resized(tmp_path) -> None:
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = (200, 100, 50)  # the square at the centre, in one colour
    items = EncodedImages(
        [encode(wide), encode(wide.transpose(1, 0, 2))], np.zeros(2, np.int64), str
    )
    assert np.unique(pixels_of(items, 8, 3, tmp_path).reshape(2, 3, 64)[:, 0]).tolist() == [200]
    small = pixels_of(items, 40, 3, tmp_path)  # cropped only
    assert small[0].tolist() == wide[:, 20:60].transpose(2, 0, 1).tolist()


def test_more_than_a_chunk_stays_in_order(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(decoding, "CHUNK", 7)
    assert pixels_of(encoded(45), 8, 1, tmp_path).tolist() == DIGITS[:45, None].tolist()


def test_the_second_time_nothing_is_decoded(tmp_path, monkeypatch) -> None:
    first = pixels_of(encoded(), 8, 1, tmp_path)
    monkeypatch.setattr(decoding, "read_pixels", lambda *_: pytest.fail("decoded again"))
    assert pixels_of(encoded(), 8, 1, tmp_path).tolist() == first.tolist()


def test_other_content_or_size_is_another_entry(tmp_path) -> None:
    pixels_of(encoded(5), 8, 1, tmp_path)
    pixels_of(encoded(4), 8, 1, tmp_path)
    pixels_of(encoded(5), 4, 1, tmp_path)
    reversed_items = EncodedImages(encoded(5).items[::-1], np.zeros(5, np.int64), str)
    assert pixels_of(reversed_items, 8, 1, tmp_path).tolist() == DIGITS[4::-1, None].tolist()
    assert len(list(tmp_path.glob("*.npy"))) == 4


def test_a_changed_file_is_decoded_again(tmp_path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(encode(DIGITS[0]))
    one = EncodedImages(["a.png"], np.zeros(1, np.int64), str, tmp_path)
    assert pixels_of(one, 8, 1, tmp_path / "cache")[0, 0].tolist() == DIGITS[0].tolist()
    file.write_bytes(encode(DIGITS[1]))
    os.utime(file, ns=(0, 1))  # whatever the clock's resolution
    assert pixels_of(one, 8, 1, tmp_path / "cache")[0, 0].tolist() == DIGITS[1].tolist()


def other_array(_: bytes) -> bytes:
    np.save(buffer := io.BytesIO(), np.zeros((2, 1, 8, 8), np.uint8))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-1], lambda _: b"", lambda _: b"junk", other_array]
)
def test_a_damaged_cache_is_made_again(tmp_path, damage) -> None:
    first = pixels_of(encoded(), 8, 1, tmp_path).copy()
    (entry,) = tmp_path.glob("*.npy")
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert pixels_of(encoded(), 8, 1, tmp_path).tolist() == first.tolist()
    assert entry.read_bytes() == whole


def test_a_failure_leaves_nothing_behind(tmp_path) -> None:
    items = [encode(DIGITS[i]) for i in range(20)]
    items[17] = items[17][:40]
    damaged = EncodedImages(items, np.zeros(20, np.int64), "birds.parquet, row {}".format)
    with pytest.raises(DataProblem, match=r"birds.parquet, row 17: not an image"):
        pixels_of(damaged, 8, 1, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_no_half_cache_and_is_tidied_up_later(tmp_path) -> None:
    script = """
import io, os, signal, sys
from pathlib import Path
import numpy as np
from PIL import Image
from whipray.trainers.data import decoded, decoding
buffer = io.BytesIO()
Image.new("L", (8, 8)).save(buffer, "PNG")
images = decoding.EncodedImages([buffer.getvalue()] * 9, np.zeros(9, np.int64), int)
whole = decoding.read_pixels
def killed(source, name, *rest):
    if name == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(source, name, *rest)
decoding.CHUNK, decoding.read_pixels = 4, killed
decoding.decode(images, 8, 1, Path(sys.argv[1]))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".partial"
    pixels_of(encoded(), 8, 1, tmp_path)
    assert left.exists()  # it might be another worker's
    os.utime(left, (0, time.time() - 2 * decoded.STALE_S))
    pixels_of(encoded(4), 8, 1, tmp_path)
    assert (
        sorted(entry.suffix for entry in tmp_path.iterdir()) == [".npy"] * 2 + [".safetensors"] * 2
    )


def test_a_cache_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskProblem, match=r"file/cache: cannot be written \(Not a directory\)"):
        pixels_of(encoded(), 8, 1, tmp_path / "file" / "cache")


def test_sixteen_bit_images_are_refused_rather_than_clipped(tmp_path) -> None:
    deep = EncodedImages([encode(np.full((8, 8), 40_000, np.uint16))], np.zeros(1, np.int64), str)
    with pytest.raises(DataProblem, match="more than 8 bits"):
        pixels_of(deep, 8, 1, tmp_path)
