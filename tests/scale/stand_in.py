"""A stand-in for ImageNet-LT: its counts, its kinds of names and sizes, and pictures that are cheap to make."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, IMAGES, MOST, LEAST = 1000, 115_846, 1280, 5
"""OLTR's training list."""
REFERENCE = 20
"""Images of each class in OLTR's validation list; they are of ImageNet's training folders, too."""
SIZE = (400, 350)
"""Pixels of a usual image of ImageNet, width and height."""
PICTURES = 64
"""Different pictures, which every file changes a little."""
FREQUENCIES, STEPS = 3, 16
"""By how many quantisation steps of a picture, and how many values of each, files differ: 64 x 4,096 of them."""


def class_counts() -> list[int]:
    """Return how many training images each class has, from `MOST` down to `LEAST`, `IMAGES` in all."""
    rest = np.linspace(1, 0, CLASSES)
    low, high = 0.1, 50.0
    for _ in range(60):
        power = (low + high) / 2
        total = LEAST * CLASSES + float(((MOST - LEAST) * rest**power).sum())
        low, high = (power, high) if total > IMAGES else (low, power)
    counts = [LEAST + round((MOST - LEAST) * share) for share in (rest**low).tolist()]
    middle = CLASSES // 4
    counts[middle] += IMAGES - sum(counts)  # what rounding left
    return counts


def make_stand_in(folder: Path, classes: int = CLASSES) -> dict[str, int]:
    """Write images and lists as ImageNet and OLTR have them.

    Args:
        folder: gets `imagenet/train/nNNNNNNNN/nNNNNNNNN_N.JPEG`, `ImageNet_LT_train.txt` and `ImageNet_LT_val.txt`.
        classes: the first so many of the thousand, of which every size is among any few.

    Returns:
        how many images each of the two lists has.
    """
    names = random.Random(0)
    wnids = sorted(
        f"n{number:08d}" for number in names.sample(range(1_440_000, 15_080_000), CLASSES)
    )
    counts = class_counts()
    names.shuffle(counts)  # a class's place in ImageNet says nothing about its count
    counts = counts[:classes]
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for label, (wnid, count) in enumerate(zip(wnids, counts, strict=False)):
        numbers = names.sample(range(30_000), count + REFERENCE)
        for place, number in enumerate(numbers):
            name = f"train/{wnid}/{wnid}_{number}.JPEG"
            lists["train" if place < count else "val"].append(f"{name} {label}")
    pictures = list(_pictures())
    with ThreadPoolExecutor(2) as pool:
        for wnid in wnids[:classes]:
            (folder / "imagenet/train" / wnid).mkdir(parents=True)
        lines = lists["train"] + lists["val"]
        written = pool.map(
            lambda each: _write(folder / "imagenet", each, pictures), enumerate(lines)
        )
        for _ in written:
            pass
    for split, content in lists.items():
        (folder / f"ImageNet_LT_{split}.txt").write_text("\n".join(content) + "\n")
    return {split: len(content) for split, content in lists.items()}


def _pictures() -> Iterator[bytes]:
    """Return JPEGs of coloured clouds with some grain; they have as many pixels as photographs, and fewer bytes."""
    rng = np.random.default_rng(0)
    for _ in range(PICTURES):
        clouds = Image.fromarray(rng.integers(0, 256, (7, 8, 3), dtype=np.uint8))
        pixels = np.asarray(clouds.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
        grain = rng.integers(-8, 9, (*pixels.shape[:2], 1), dtype=np.int16)
        picture = Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=75)
        yield file.getvalue()


def _write(root: Path, numbered: tuple[int, str], pictures: list[bytes]) -> None:
    """Write one picture with other quantisation steps, so that the pixels of no two files are equal.

    A JPEG's first table begins five bytes after its marker with the step of the mean, then those of the lowest
    frequencies, whose coefficients are multiplied by them when it is decoded.
    """
    number, line = numbered
    picture = bytearray(pictures[number % PICTURES])
    first = picture.index(b"\xff\xdb") + 6
    variant = number // PICTURES
    for place in range(FREQUENCIES):
        variant, more = divmod(variant, STEPS)
        picture[first + place] += more
    (root / line.partition(" ")[0]).write_bytes(picture)
