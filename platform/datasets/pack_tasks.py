"""One shard of a packed set: its images decoded and written, by any process that sees them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...trainers.data.decoded import hash_of
from ...trainers.data.decoding import FORMAT
from ...trainers.data.encoded import EncodedImages
from ...trainers.data.files import Files
from ...trainers.data.packed import Pixels
from ...trainers.data.packed_set import encode_shard
from ...trainers.data.pixels import read_pixels, without_size_warnings
from ...trainers.data.report import raise_together
from ...trainers.errors import DataProblem
from ...trainers.integrity import load_described_arrays, save_arrays

THREADS = 8
"""Of one process: while some wait for a bucket or a disk, others decode."""
PARTS = "parts"
"""Folder of what is known of each finished shard; removed when the set is whole."""


@dataclass(frozen=True, eq=False)
class PackTask:
    """A shard to be made.

    Args:
        first: its first row.
        images: of one split after the other, as they can be sent to another process.
        image_shape: (channels, height, width).
        key: hash of what its rows are made of: finished shards are found again by it.
    """

    first: int
    images: tuple[EncodedImages, ...]
    image_shape: tuple[int, int, int]
    key: str

    @staticmethod
    def of(
        first: int, images: tuple[EncodedImages, ...], image_shape: tuple[int, int, int]
    ) -> PackTask:
        """Return the task of some images.

        Raises:
            DataProblem: naming the files that are missing.
        """
        digest = hashlib.sha256(repr((FORMAT, image_shape)).encode())
        for part in images:
            in_memory = [hashlib.sha256(i).digest() for i in part.items if isinstance(i, bytes)]
            files = [item for item in part.items if not isinstance(item, bytes)]
            digest.update(repr((part.where, files, part.states(), in_memory)).encode())
        sent = tuple(part.detached() for part in images)
        return PackTask(first, sent, image_shape, digest.hexdigest()[:32])

    def __len__(self) -> int:
        """Return the number of its rows."""
        return sum(len(part.labels) for part in self.images)

    @property
    def part(self) -> str:
        """Name of the file that says that the shard is finished."""
        return f"{PARTS}/{self.key}.safetensors"


@dataclass(frozen=True, eq=False)
class Finished:
    """A shard that was written.

    Args:
        file: its name in the set.
        sha256: of its bytes, hex.
        treatments: (n,) uint8, what was done to each image.
        hashes: (n,) uint64, of the pixels of each.
    """

    file: str
    sha256: str
    treatments: Pixels
    hashes: NDArray[np.uint64]


def make_shard(to: Files, environment: Mapping[str, str], task: PackTask) -> None:
    """Decode the images of a shard and write it, then what says that it is finished.

    Args:
        to: the set.
        environment: variables by which buckets are reached; none is a secret.

    Raises:
        DataProblem: images that are missing or cannot be decoded, or a set that cannot be written.
    """
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    pixels = np.empty((len(task), *task.image_shape), np.uint8)
    treatments, hashes = np.zeros(len(task), np.uint8), np.zeros(len(task), np.uint64)
    channels, size, _ = task.image_shape
    every = [(part, i) for part in task.images for i in range(len(part.labels))]

    def decode(row: int) -> DataProblem | None:
        part, index = every[row]
        try:
            image, done = read_pixels(part.open(index), part.name(index), size, channels)
        except DataProblem as problem:
            return problem
        pixels[row], treatments[row] = image, done
        hashes[row] = np.frombuffer(hash_of(image), np.uint64)[0]
        return None

    with without_size_warnings(), ThreadPoolExecutor(THREADS) as pool:
        raise_together(problem for problem in pool.map(decode, range(len(every))) if problem)
    name, content = encode_shard(pixels)
    to.write(name, content)
    about = {"file": name, "sha256": hashlib.sha256(content).hexdigest()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.safetensors"
        arrays: dict[str, NDArray[Any]] = {"treatments": treatments, "hashes": hashes}
        save_arrays(arrays, file, about)
        to.write(task.part, file)


def read_finished(files: Files, task: PackTask) -> Finished:
    """Return what is known of a finished shard.

    Raises:
        DataProblem, Altered: it is missing or damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.safetensors"
        file.write_bytes(files.read(task.part))
        arrays, about = load_described_arrays(file)
    return Finished(about["file"], about["sha256"], arrays["treatments"], arrays["hashes"])
