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

from whipray.trainers.data import decoded, decoding, progress
from whipray.trainers.data import packed as packed_module
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


def test_more_than_a_piece_stays_in_order(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(decoding, "CHUNK", 7)
    monkeypatch.setattr(decoded, "LEAST_ROWS", 4)
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
    assert len(list(tmp_path.glob("*/rows.bin"))) == 4


def test_a_changed_file_is_decoded_again(tmp_path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(encode(DIGITS[0]))
    one = EncodedImages(["a.png"], np.zeros(1, np.int64), str, tmp_path)
    assert pixels_of(one, 8, 1, tmp_path / "cache")[0, 0].tolist() == DIGITS[0].tolist()
    file.write_bytes(encode(DIGITS[1]))
    os.utime(file, ns=(0, 1))  # whatever the clock's resolution
    assert pixels_of(one, 8, 1, tmp_path / "cache")[0, 0].tolist() == DIGITS[1].tolist()


@pytest.mark.parametrize("file", ["rows.bin", "known.bin"])
@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-1], lambda _: b"", lambda whole: b"junk" + whole[4:]]
)
def test_a_damaged_cache_is_made_again(tmp_path, file, damage) -> None:
    first = decode(encoded(), 8, 1, tmp_path)
    (entry,) = tmp_path.glob(f"*/{file}")
    whole = entry.read_bytes()
    del first
    entry.write_bytes(damage(whole))
    later = time.time_ns() + 10**9
    os.utime(entry, ns=(later, later))  # whatever the clock's resolution
    assert pixels_of(encoded(), 8, 1, tmp_path).tolist() == DIGITS[:5, None].tolist()
    assert entry.read_bytes() == whole


def test_a_failure_names_the_image_and_leaves_what_was_finished(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(decoded, "LEAST_ROWS", 5)
    items = [encode(DIGITS[i]) for i in range(20)]
    items[17] = items[17][:40]
    damaged = EncodedImages(items, np.zeros(20, np.int64), "birds.parquet, row {}".format)
    for _ in range(2):
        with pytest.raises(DataProblem, match=r"birds.parquet, row 17: not an image"):
            pixels_of(damaged, 8, 1, tmp_path)
    (marks,) = tmp_path.glob("*/written")
    assert marks.read_bytes()[3] == 0


DECODE = """
import io, os, signal, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from whipray.trainers.data import decoded, decoding, progress
from whipray.trainers.data import packed as packed_module
from whipray.trainers.data.encoded import EncodedImages

cache, log, last = sys.argv[1:]
def png(value):
    buffer = io.BytesIO()
    Image.new("L", (8, 8), value).save(buffer, "PNG")
    return buffer.getvalue()
images = EncodedImages([png(i) for i in range(40)], np.zeros(40, np.int64), int)
whole = decoding.read_pixels
def counting(source, name, *rest):
    if name == int(last):
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    with open(log, "a") as lines:
        lines.write(f"{name}\\n")
    time.sleep(0.01)
    return whole(source, name, *rest)
decoded.LEAST_ROWS, decoding.read_pixels = 4, counting
pixels = decoding.decode(images, 8, 1, Path(cache)).pixels
print(pixels[:, 0, 0, 0].tolist() == list(range(40)))
"""


def decoding_process(tmp_path: Path, log: str, last: int = -1) -> subprocess.Popen[str]:
    """Start one that decodes 40 images, a piece of 4 at a time, and is killed at the last."""
    arguments = [str(tmp_path / "cache"), str(tmp_path / log), str(last)]
    return subprocess.Popen(
        [sys.executable, "-c", DECODE, *arguments], stdout=subprocess.PIPE, text=True
    )


def test_a_killed_decoding_goes_on_where_it_was(tmp_path) -> None:
    killed = decoding_process(tmp_path, "first", last=25)
    killed.communicate()
    assert killed.returncode == -9
    (marks,) = (tmp_path / "cache").glob("*/written")
    finished = sum(marks.read_bytes()) * 4
    assert 0 < finished <= 36
    assert decoding_process(tmp_path, "second").communicate()[0] == "True\n"
    assert len((tmp_path / "second").read_text().split()) == 40 - finished


def test_two_processes_on_an_empty_cache_decode_each_image_once(tmp_path) -> None:
    both = [decoding_process(tmp_path, "log") for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["True\n"] * 2
    names = (tmp_path / "log").read_text().split()
    assert sorted(map(int, names)) == list(range(40))


def test_a_decoding_says_how_far_it_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    monkeypatch.setattr(decoded, "LEAST_ROWS", 4)
    lines: list[str] = []
    decode(encoded(40), 8, 1, tmp_path, on_phase=lines.append)
    assert any(line.startswith("decoding images: ") and "of 40" in line for line in lines)


def test_what_is_left_is_said_of_what_this_process_has_seen(monkeypatch) -> None:
    lines: list[str] = []
    now = iter([0.0, 2.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    count = progress.Count(lines.append, "decoding images", 5000, done=1000)
    count.at(1100)
    count.at(2000)
    assert lines == [
        "decoding images: 1,100 of 5,000",
        "decoding images: 2,000 of 5,000, 30 s left",
    ]


def test_a_fingerprint_is_kept_beside_the_images_that_it_is_of(tmp_path, monkeypatch) -> None:
    images, labels = decode(encoded(), 8, 1, tmp_path), np.array([0, 1, 2, 0, 1])
    rows = slice(0, 4)

    def block(labels: np.ndarray, names: tuple[str, ...] = NAMES) -> PackedImages:
        return PackedImages(images.pixels[rows], labels[rows], names, images.known(rows))

    expected = PackedImages(DIGITS[:4, None].copy(), labels[rows], NAMES).fingerprint()
    assert block(labels).fingerprint() == expected
    changed = block(labels[::-1].copy()).fingerprint(), block(labels, ("a", "b", "c")).fingerprint()
    assert len({expected, *changed}) == 3
    monkeypatch.setattr(packed_module, "fingerprint_of", lambda *_: pytest.fail("hashed again"))
    assert block(labels).fingerprint() == expected


def test_a_cache_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskProblem, match=r"file/cache: cannot be written \(Not a directory\)"):
        pixels_of(encoded(), 8, 1, tmp_path / "file" / "cache")


def test_sixteen_bit_images_are_refused_rather_than_clipped(tmp_path) -> None:
    deep = EncodedImages([encode(np.full((8, 8), 40_000, np.uint16))], np.zeros(1, np.int64), str)
    with pytest.raises(DataProblem, match="more than 8 bits"):
        pixels_of(deep, 8, 1, tmp_path)
