"""Long-tailed CIFAR images as benchmarks read them, also on a machine that lacks pyarrow."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whipray.trainers.data import Parquet, Splits
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.disk import cache_folder


def read_images(file: Path) -> Splits:
    """Read a Parquet file, or what `pack_images.py` made of it: `reference` are its test images."""
    if file.suffix != ".npz":
        return Parquet(path=file).load(cache_folder())
    with np.load(file) as found:
        test = found["test"]
        return Splits(read_rows(file, np.flatnonzero(~test)), read_rows(file, np.flatnonzero(test)))


def some_images(file: Path, count: int) -> PackedImages:
    """Read some training images, as long-tailed as all of them, of what `pack_images.py` made."""
    with np.load(file) as found:
        training = np.flatnonzero(~found["test"])
    return read_rows(file, np.sort(np.random.default_rng(0).permutation(training)[:count]))


def read_rows(file: Path, rows: NDArray[np.int64]) -> PackedImages:
    """Decode the images at `rows`."""
    with np.load(file) as found:
        encoded, ends, labels = found["encoded"], found["ends"], found["labels"]
        names = tuple(str(name) for name in found["class_names"])
    starts = np.concatenate([[0], ends[:-1]])
    images = [
        np.asarray(Image.open(BytesIO(encoded[starts[row] : ends[row]])).convert("RGB"))
        for row in rows
    ]
    block = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))  # (N, 3, H, W) uint8
    return PackedImages(block, labels[rows], names)
